"""Does a diffusion model of public images ask better questions than these images themselves?

A small one learns from what the synthesizer draws (procedural images, untrained networks, crops of
two photographs) and never sees a private row. Students then learn from as many images of each
source, with the teacher's probabilities (Fashion-MNIST, not private). Guided images are drawn
towards each class of a student that learned from the synthesizer's (Dhariwal and Nichol, "Diffusion
Models Beat GANs on Image Synthesis", NeurIPS 2021, section 4, on the estimate of the clean image).
"""

import copy
import math
import time
from argparse import Namespace
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench_tables.cells import config_hash, configure, main_cells
from bench_tables.jobs import RESULTS, Job
from dpsd.config import Config, parse_config
from dpsd.data.load import load_data
from dpsd.device import pick_dtype
from dpsd.generator.synthesizer import Synthesizer, Undecided
from dpsd.student.bank import Bank
from dpsd.student.student import Student
from dpsd.teachers.teacher import accuracy, ensure_teacher, load_teacher

BASE = "fashion-none-mixed"
TRAINED, ASKED, PASSES = 60_000, 12_000, 6  # images for diffusion, and for each student
_SHARES = {"strokes": 0.16, "blobs": 0.08, "spectra": 0.04, "leaves": 0.12, "photographs": 0.2,
           "adversarial": 0.4}  # fmt: skip
_UPDATES, _BATCH, _LR, _DECAY = 2_500, 128, 1e-3, 0.998
_STEPS = 20  # of DDIM
_PULLS = (0.0, 0.05, 0.15)  # of guidance at each step, in units of a pixel's range; 0 is none
_WIDTH = 32
_SHAPE = (1, 28, 28)


class UNet(nn.Module):
    """Noisy images [B, C, H, W] and times [B] on 0 to 1 -> velocity [B, C, H, W]; H and W by 4.

    Its convolutions see blocks of two by two pixels, then these at half the size.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        w, inner = _WIDTH, 4 * channels
        self.time = nn.Sequential(nn.Linear(32, 2 * w), nn.SiLU(), nn.Linear(2 * w, 2 * w))
        self.enter = nn.Conv2d(inner, w, 3, padding=1)
        self.fine = nn.ModuleList([_Block(w, w), _Block(w, w)])
        self.coarse = nn.ModuleList([_Block(w, 2 * w), _Block(2 * w, 2 * w), _Block(2 * w, w)])
        self.back = nn.ModuleList([_Block(2 * w, w), _Block(w, w)])
        self.leave = nn.Conv2d(w, inner, 3, padding=1)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """The velocity [B, C, H, W]."""
        waves = t[:, None] * torch.exp(torch.linspace(0, math.log(100), 16))
        e = self.time(torch.cat([waves.sin(), waves.cos()], 1))
        x = self.enter(F.pixel_unshuffle(x, 2))
        for block in self.fine:
            x = block(x, e)
        y = F.avg_pool2d(x, 2)
        for block in self.coarse:
            y = block(y, e)
        x = torch.cat([x, F.interpolate(y, x.shape[2:])], 1)
        for block in self.back:
            x = block(x, e)
        return F.pixel_shuffle(self.leave(x), 2)


class _Block(nn.Module):
    def __init__(self, width_in: int, width: int) -> None:
        super().__init__()
        self.skip = nn.Conv2d(width_in, width, 1) if width_in != width else nn.Identity()
        self.first = nn.Conv2d(width_in, width, 3, padding=1)
        self.norm = nn.GroupNorm(8, width)
        self.time = nn.Linear(2 * _WIDTH, 2 * width)
        self.last = nn.Conv2d(width, width, 3, padding=1)
        nn.init.zeros_(self.last.weight)

    def forward(self, x: Tensor, e: Tensor) -> Tensor:
        scale, shift = self.time(e)[:, :, None, None].chunk(2, 1)
        h = F.silu(self.norm(self.first(x)) * (1 + scale) + shift)
        return self.skip(x) + self.last(h)


def jobs(args: Namespace) -> Iterator[Job]:
    """One file: every source."""
    config = configure(main_cells()[BASE], 0, args.teachers)
    facts = {"base": BASE, "config_hash": config_hash(config), "seed": 0}
    yield Job(RESULTS / "diffusion.json", facts, partial(measure, config, args.shrink))


def measure(config: Config, shrink: int) -> dict[str, Any]:
    """Accuracy and agreement on the holdout rows by source, and the seconds of each part."""
    tree = config.model_dump(mode="json")
    tree["generator"] |= {"shares": _SHARES, "select": 1, "recombine": 0}
    tree["student"]["refit_epochs"] = PASSES
    config = parse_config(tree)
    ask = load_teacher(config, ensure_teacher(config, print))
    asked, seconds = ASKED // shrink, dict[str, float]()
    torch.manual_seed(0)

    start = time.perf_counter()
    public = Synthesizer(config, config.facts, torch.device("cpu")).sample(
        (TRAINED + ASKED) // shrink, Undecided(config.facts.classes)
    )
    seconds["synthesizer"] = time.perf_counter() - start
    first, public = public[:asked], public[asked:]
    start = time.perf_counter()
    net, loss = trained(public, max(4, _UPDATES // shrink))
    seconds["training"] = time.perf_counter() - start

    student = learned(config, ask, first)
    found = {"synthesizer": _judged(config, ask, student, first)}
    for pull in _PULLS:
        start = time.perf_counter()
        images = drawn(net, asked, student.average, pull, config.facts.classes)
        name = f"guided {pull}" if pull else "diffusion"
        seconds[name] = time.perf_counter() - start
        found[name] = _judged(config, ask, learned(config, ask, images), images)
        both = torch.cat([first[: asked // 2], images[: asked - asked // 2]])
        found[f"half {name}"] = _judged(config, ask, learned(config, ask, both), both)
    return {
        "trained": len(public), "asked": asked, "passes": PASSES, "steps": _STEPS,
        "updates": _UPDATES, "batch": _BATCH, "weights": sum(p.numel() for p in net.parameters()),
        "loss": loss, "sources": found, "seconds": seconds,
    }  # fmt: skip


def trained(images: Tensor, updates: int) -> tuple[UNet, float]:
    """A diffusion model of images uint8 [N, C, H, W], and its mean loss in the last tenth.

    It predicts the velocity (Salimans and Ho, "Progressive Distillation", ICLR 2022, appendix D)
    under the cosine schedule; the weights are a moving average.
    """
    net = UNet(images.shape[1]).to(memory_format=torch.channels_last)
    kept = copy.deepcopy(net).eval().requires_grad_(False)
    optimizer = torch.optim.AdamW(net.parameters(), fused=True)
    losses = []
    for n in range(updates):
        for group in optimizer.param_groups:
            group["lr"] = _LR * min(1, n / 100, 3 * (1 - n / updates))
        x = _pixels(images[torch.randint(len(images), (_BATCH,))])
        t, noise = torch.rand(len(x)), torch.randn_like(x)
        alpha, sigma = _levels(t)
        loss = (_velocity(net, alpha * x + sigma * noise, t) - (alpha * noise - sigma * x)).square()
        optimizer.zero_grad()
        loss.mean().backward()
        optimizer.step()
        losses.append(loss.detach().mean())
        with torch.no_grad():
            for old, new in zip(kept.parameters(), net.parameters(), strict=True):
                old.lerp_(new, 1 - min(_DECAY, n / (n + 10)))
        if n % 100 == 99:
            print(f"update {n + 1}, loss {torch.stack(losses[-100:]).mean():.4f}", flush=True)
    return kept, float(torch.stack(losses[updates * 9 // 10 :]).mean())


def drawn(net: UNet, count: int, student: nn.Module, pull: float, classes: int) -> Tensor:
    """Images uint8 [count, C, H, W] by DDIM (Song et al. 2021), of every class equally often."""
    parts = []
    for rows in torch.arange(count).split(512):
        wanted = rows % classes
        x = torch.randn(len(rows), *_SHAPE)
        for step in range(_STEPS):
            t = torch.full((len(rows),), 1 - step / _STEPS)
            alpha, sigma = _levels(t)
            with torch.no_grad():
                v = _velocity(net, x, t)
                clean, noise = alpha * x - sigma * v, sigma * x + alpha * v
            if pull:
                clean = clean.clamp(-1, 1).requires_grad_()
                score = student((clean + 1) / 2).log_softmax(1).gather(1, wanted[:, None]).sum()
                (slope,) = torch.autograd.grad(score, clean)
                size = slope.square().mean((1, 2, 3), keepdim=True).sqrt().clamp_min(1e-12)
                clean = clean.detach() + pull * slope / size
            clean = clean.clamp(-1, 1)
            noise = (x - alpha * clean) / sigma
            alpha, sigma = _levels(t - 1 / _STEPS)
            x = alpha * clean + sigma * noise
        parts.append(((x.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8))
    return torch.cat(parts)


def learned(config: Config, ask: Any, images: Tensor) -> Student:
    """A fresh student of the teacher's probabilities for these images."""
    facts = config.facts
    student = Student(
        config, facts, rounds=1, queries_per_round=len(images), soft_targets=True,
        device=torch.device("cpu"), dtype=pick_dtype(config.precision, torch.device("cpu")),
    )  # fmt: skip
    bank = Bank(len(images), facts.shape, facts.classes)
    bank.add(images, _answers(ask, images).log())
    student.refit(bank)
    return student


def _answers(ask: Any, images: Tensor) -> Tensor:
    with torch.inference_mode():
        return torch.cat([ask(x).softmax(1) for x in images.split(512)]).clamp_min(1e-12)


def _judged(config: Config, ask: Any, student: Student, images: Tensor) -> dict[str, Any]:
    """On the holdout rows; and the entropy of the classes that the teacher names, in nats."""
    holdout = load_data(config.data).holdout
    answers = _answers(ask, images)
    shares = answers.argmax(1).bincount(minlength=answers.shape[1]) / len(images)
    rows = holdout.images[:]
    same = student.predict(rows).argmax(1) == _answers(ask, rows).argmax(1)
    found = {
        "accuracy": accuracy(student.predict, holdout), "agreement": float(same.float().mean()),
        "entropy_of_classes": float(-(shares * shares.clamp_min(1e-12).log()).sum()),
        "mean_confidence": float(answers.amax(1).mean()),
    }  # fmt: skip
    print(found, flush=True)
    return found


def _pixels(images: Tensor) -> Tensor:
    """uint8 -> float32 from -1 to 1."""
    return images.float() / 127.5 - 1


def _levels(t: Tensor) -> tuple[Tensor, Tensor]:
    """Signal and noise at times [B], each [B, 1, 1, 1]."""
    angle = (math.pi / 2 * t)[:, None, None, None].clamp(1e-3, math.pi / 2 - 1e-3)
    return angle.cos(), angle.sin()


def _velocity(net: UNet, x: Tensor, t: Tensor) -> Tensor:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        v: Tensor = net(x.contiguous(memory_format=torch.channels_last), t)
    return v.float()
