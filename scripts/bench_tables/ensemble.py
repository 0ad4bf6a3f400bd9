"""Ensembles of teachers: how decided those on small shards are, and how fast they train together.

The shards' figures are the assumption table of `dpsd plan --route auto`. All figures come from
public benchmarks, which stand in for private data. They say nothing about a user's teachers.
"""

import time
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import functional_call, grad, stack_module_state, vmap

from bench_tables.jobs import RESULTS, Job, chosen
from dpsd.config import Config, parse_config
from dpsd.data.load import PrivateData, load_data
from dpsd.device import pick_device, pick_dtype
from dpsd.generator.procedural import procedural
from dpsd.models.augment import DRAWS, augment
from dpsd.models.networks import build_model
from dpsd.randomness import stream
from dpsd.teachers.members import Members, chunks, member_choices, train_members
from dpsd.teachers.sharding import shard_rows

HOLDOUT, ASKED = 2000, 2000  # real and synthetic images
BINS = 10
KEY = bytes(range(16))  # fixed, so that benchmarks repeat; a real key is secret and random
SAMPLES = {250: 96, 500: 128, 1000: 256, 2000: 256, 4000: 256, 8000: 256}
"""Number of teachers -> how many of them are trained."""
SHARDS = {
    f"{data}-{n}": {"data": data, "model": "scatter-linear", "n": n, "sample": sample}
    for data in ("mnist", "fashion_mnist")
    for n, sample in SAMPLES.items()
}
SPEED = {"speed-mnist-cnn-tiny-250": {"data": "mnist", "model": "cnn-tiny", "n": 250, "sample": 32}}


def shard_jobs(args: Namespace) -> Iterator[Job]:
    """Votes of teachers on shards of either benchmark."""
    for name, cell, _ in chosen(SHARDS, args):
        sample = max(1, cell["sample"] // args.shrink)
        work = partial(measure_shards, cell, sample)
        yield Job(RESULTS / "shards" / f"{name}.json", cell | {"sample": sample}, work)


def speed_jobs(args: Namespace) -> Iterator[Job]:
    """Training together against one after another."""
    for name, cell, _ in chosen(SPEED, args):
        sample = max(1, cell["sample"] // args.shrink)
        work = partial(measure_speed, cell, sample, whole=args.shrink == 1)
        yield Job(RESULTS / "ensemble" / f"{name}.json", {"n": cell["n"], "sample": sample}, work)


def configure(cell: dict[str, Any]) -> Config:
    """The configuration of the cell's teachers."""
    teacher = {"model": cell["model"], "shards": cell["n"], "augment": "affine"}
    tree = {"data": {"name": cell["data"]}, "teacher": teacher, "privacy": {"epsilon": 1.0}}
    return parse_config(tree)


def measure_shards(cell: dict[str, Any], sample: int) -> dict[str, Any]:
    """How often the plurality is right on holdout rows; vote shares on synthetic images."""
    config = configure(cell)
    data, classes = load_data(config.data), config.facts.classes
    weights, cost = _timed(_train_together, config, data, _shards(config, data), chunks(sample))
    teachers = len(weights["empty"])
    choose = member_choices(cell["model"], config.facts, weights, *_where(config))
    rng = torch.Generator().manual_seed(0)
    asked = torch.cat([procedural(family, int(share * ASKED), config.facts.shape, rng)
                       for family, share in config.generator.shares.items()])  # fmt: skip
    x, y = data.holdout.images[:HOLDOUT], data.holdout.labels[:HOLDOUT]
    # Shares of the votes, float64 [B, K].
    real, votes = (F.one_hot(choose(images), classes).double().mean(0) for images in (x, asked))
    first, second = votes.topk(2, 1).values.T
    order = (first - second).argsort()
    bins = [part.tolist() for part in order.tensor_split(BINS)]
    return {
        "rows_per_teacher": len(data.train) / cell["n"], "classes": classes,
        "right": round(float((real.argmax(1) == y).double().mean()), 4),
        "first": [round(float(first[b].mean()), 3) for b in bins],
        "second": [round(float(second[b].mean()), 3) for b in bins],
        "cpu_seconds_per_teacher": cost["cpu_seconds"] / teachers,
        "holdout_rows": len(y), "asked": len(asked),
    }  # fmt: skip


def measure_speed(cell: dict[str, Any], sample: int, whole: bool) -> dict[str, Any]:
    """Train all n together (a sample unless `whole`), and a sample by a loop and by vmap."""
    config = configure(cell)
    data = load_data(config.data)
    rows = _shards(config, data)
    device, dtype = _where(config)
    x, y = data.holdout.images[:HOLDOUT], data.holdout.labels[:HOLDOUT]
    numbers = chunks(cell["n"] if whole else sample)
    weights, figures = _timed(_train_together, config, data, rows, numbers)
    votes = member_choices(cell["model"], config.facts, weights, device, dtype)(x)
    right = float((votes == y).float().mean())
    result = {"together": figures | {"teachers": len(weights["empty"]), "member": right}}
    for how in ("loop", "vmap"):
        nets, figures = _timed(_one_after_another, config, data, rows[:sample], dtype, how)
        with torch.inference_mode():
            shares = [float((net(x.float() / 255).argmax(1) == y).float().mean()) for net in nets]
        result[how] = figures | {"teachers": len(nets), "member": sum(shares) / len(shares)}
    per = {how: part["cpu_seconds"] / part["teachers"] for how, part in result.items()}
    return result | {
        "faster_than_loop": per["loop"] / per["together"],
        "faster_than_vmap": per["vmap"] / per["together"],
    }


def _where(config: Config) -> tuple[torch.device, torch.dtype]:
    device = pick_device("cpu")
    return device, pick_dtype(config.precision, device)


def _shards(config: Config, data: PrivateData) -> list[Tensor]:
    return shard_rows(len(data.train), config.teacher.shards, KEY).rows()


def _train_together(
    config: Config, data: PrivateData, rows: list[Tensor], numbers: Sequence[Sequence[int]]
) -> dict[str, Tensor]:
    """Weights of the teachers of these numbers, stacked, trained chunk by chunk."""
    device, dtype = _where(config)
    parts = []
    for chunk in numbers:
        own = {i: rows[i] for i in chunk}
        members = Members(data.train.images, data.train.labels, own, KEY)
        parts.append(
            train_members(config.teacher, config.facts, members, device=device, dtype=dtype)
        )
    return {name: torch.cat([p[name] for p in parts]) for name in parts[0]}


def _one_after_another(
    config: Config, data: PrivateData, rows: list[Tensor], dtype: torch.dtype, how: str
) -> list[torch.nn.Module]:
    """The same recipe without stacking: a plain module and loop, or vmap of `len(rows)` modules."""
    t, facts = config.teacher, config.facts
    groups = [[r] for r in rows] if how == "loop" else [rows]
    nets, streams = [], [stream(KEY, i) for i in range(len(rows))]
    for group in groups:
        own = [build_model(t.model, facts.shape, facts.classes) for _ in group]
        parameters = (
            dict(own[0].named_parameters()) if how == "loop" else stack_module_state(own)[0]
        )
        adam = torch.optim.AdamW(
            parameters.values(), t.lr, betas=(0.9, 0.99), weight_decay=1e-2, fused=True
        )
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            adam, t.lr, total_steps=t.shard_steps, pct_start=0.2
        )

        def loss_of(p, x, y, net=own[0]):
            with torch.autocast("cpu", dtype=dtype, enabled=dtype != torch.float32):
                logits = functional_call(net, p, (x,))
            return F.cross_entropy(logits.float(), y)

        for _ in range(t.shard_steps):
            picked, changed = [], []
            for shard, rng in zip(group, streams[len(nets) :], strict=False):
                picked.append(shard[torch.randint(len(shard), (t.shard_batch,), generator=rng)])
                changed.append(torch.rand(t.shard_batch, DRAWS, generator=rng))
            picked = torch.stack(picked)
            images = augment(data.train.images[picked.flatten()], t.augment, torch.cat(changed))
            x = (images.float() / 255).unflatten(0, picked.shape)
            y = data.train.labels[picked]
            if how == "loop":
                adam.zero_grad()
                loss_of(
                    parameters, x[0].contiguous(memory_format=torch.channels_last), y[0]
                ).backward()
            else:
                for name, g in vmap(grad(loss_of))(parameters, x, y).items():
                    parameters[name].grad = g
            adam.step()
            schedule.step()
        for i, net in enumerate(own):
            if how != "loop":
                net.load_state_dict({name: p[i] for name, p in parameters.items()})
            nets.append(net.eval())
    return nets


def timed(function, *args):
    start, cpu = time.perf_counter(), time.process_time()
    out = function(*args)
    return out, {"seconds": time.perf_counter() - start, "cpu_seconds": time.process_time() - cpu}


def _timed(function: Callable[..., Any], *args: Any) -> tuple[Any, dict[str, float]]:
    start, cpu = time.perf_counter(), time.process_time()
    result = function(*args)
    seconds = time.perf_counter() - start
    return result, {"seconds": seconds, "cpu_seconds": time.process_time() - cpu}
