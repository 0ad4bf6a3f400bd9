"""SPSG: learn how answers change with superpixels, besides the answers.

Zhao et al., *Fully Exploiting Every Real Sample: SuperPixel Sample Gradient Model Stealing*
(CVPR 2024).
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from dpsd.attacks.extraction.clone import (
    TEMPERATURE,
    Clone,
    Holdings,
    Transcript,
    agreement,
    every_tenth,
    hash_seed,
    need_probabilities,
    next_images,
    recipe,
    softened,
    staged,
)
from dpsd.attacks.extraction.endpoint import Endpoint
from dpsd.attacks.extraction.probabilities.superpixels import superpixels
from dpsd.console import Say
from dpsd.models.augment import augment
from dpsd.models.fit import FitRecipe, in_batches
from dpsd.models.networks import build_model

PER_SIDE = 3
"""An image is cut into at most the square of this many superpixels."""
STEP = 32
"""Grey levels by which a superpixel is changed; answers to less drown in rounding."""
_KEPT = 0.3  # differences below this share of an image's largest are set to 0
_WEIGHT = 0.3  # of the gradients' loss
_SMALLEST = 1e-6  # a probability that was answered as 0
_VANISHED = 0.5  # of the differences: then the user is told


@dataclass(frozen=True)
class Slopes:
    """How the log-probability of the named class changes with each pixel, by superpixels.

    Attributes:
        images: uint8 [N, C, H, W].
        answers: float [N, K].
        slopes: float [N, 1, H, W], by unit of a pixel's value; 0 where none was seen.
        parts: the superpixel of each pixel, int64 [N, 1, H, W].
    """

    images: Tensor
    answers: Tensor
    slopes: Tensor
    parts: Tensor


def spsg(endpoint: Endpoint, holdings: Holdings) -> Iterator[Clone]:
    """Ask about images and about each with one superpixel changed; every probe is paid.

    Forward differences give the gradient on superpixels. Small ones are noise and are set to 0 (the
    paper's purification). The clone learns the answers, and that its own gradients point the same
    way. `holdings.say` tells when rounding makes most differences vanish.

    Raises:
        UserError: an endpoint that gives labels.
    """
    need_probabilities(endpoint, "spsg")
    seen, say = list[Slopes](), holdings.say

    def ask(transcript: Transcript, count: int) -> None:
        end = transcript.asked + count
        while (left := end - transcript.asked) > 0:
            # An image with all its probes, or in the end the images that are left, alone.
            full = left // (PER_SIDE**2 + 1)
            images = next_images(holdings, len(transcript), full or left, "distillation")
            answers = transcript.ask(endpoint, images)
            parts = superpixels(images, PER_SIDE)[:, None]
            slopes = torch.zeros(parts.shape)
            if full:
                slopes = _probe(endpoint, transcript, Slopes(images, answers, slopes, parts), say)
            seen.append(Slopes(images, answers, slopes, parts))

    def train(transcript: Transcript) -> Clone:
        names = ("images", "answers", "slopes", "parts")
        return _train(Slopes(*(torch.cat([getattr(s, n) for s in seen]) for n in names)), holdings)

    return staged(endpoint, holdings, ask, train)


def _probe(endpoint: Endpoint, transcript: Transcript, asked: Slopes, say: Say) -> Tensor:
    """Slopes float [B, 1, H, W] from one question for each superpixel that has pixels."""
    inside = F.one_hot(asked.parts[:, 0], PER_SIDE**2).permute(0, 3, 1, 2).bool()  # [B, S, H, W]
    row, part = inside.flatten(2).any(2).nonzero(as_tuple=True)
    mask = inside[row, part][:, None]
    before = asked.images[row].int()
    mean = (before * mask).sum((1, 2, 3)) / (mask.sum((1, 2, 3)) * before.shape[1])
    step = torch.where(mean < 128, STEP, -STEP)[:, None, None, None]  # away from the nearer end
    after = torch.where(mask, (before + step).clamp(0, 255), before)
    named = asked.answers.argmax(1)[row, None]
    now = transcript.probe(endpoint, after.to(torch.uint8)).gather(1, named)
    then = asked.answers[row].gather(1, named)
    gone = float((now == then).double().mean())
    if gone > _VANISHED:
        say(f"spsg: {gone:.0%} of the differences are 0, as answers are rounded or certain")
    difference = (now.clamp_min(_SMALLEST) / then.clamp_min(_SMALLEST)).log()[:, 0]
    moved = (after - before).sum((1, 2, 3)) / 255
    slope = difference / moved.where(moved != 0, torch.inf)
    table = torch.zeros(len(inside), PER_SIDE**2).index_put((row, part), slope.float())
    least = _KEPT * table.abs().amax(1, keepdim=True)
    table = table.where(table.abs() >= least, 0)
    return table.gather(1, asked.parts.flatten(1)).view(asked.parts.shape)


def _train(seen: Slopes, holdings: Holdings) -> Clone:
    """A clone of answers and slopes; its loss is cross-entropy and one minus the cosine."""
    held = every_tenth(torch.arange(len(seen.images)))
    images, targets = seen.images[~held], softened(seen.answers[~held], TEMPERATURE)
    slopes, parts = seen.slopes[~held], seen.parts[~held]
    named = seen.answers[~held].argmax(1)
    plan = recipe(len(images), holdings)
    kind = "shift" if plan.augment == "affine" else plan.augment  # parts are whole numbers
    channels, height, width = (int(side) for side in images.shape[1:])
    with torch.random.fork_rng():
        torch.manual_seed(hash_seed(holdings.seed, f"spsg {len(images)}"))
        model = build_model(holdings.model, (channels, height, width), targets.shape[1]).train()
        optimizer = torch.optim.AdamW(model.parameters(), lr=plan.lr, weight_decay=1e-2)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, plan.lr, total_steps=plan.steps)
        for rows in _batches(len(images), plan):
            # What belongs to a pixel moves with it.
            together = augment(
                torch.cat([images[rows].float(), slopes[rows], parts[rows].float()], 1), kind
            )
            x = (together[:, :channels] / 255).requires_grad_()
            slope, part = together[:, channels].flatten(1), together[:, channels + 1].flatten(1)
            logits = model(x)
            loss = F.cross_entropy(logits / TEMPERATURE, targets[rows])
            own = _by_part(_gradients(logits, named[rows], x), part.long())
            some = slope.any(1)
            loss = loss + _WEIGHT * ((1 - F.cosine_similarity(own, slope)) * some).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    model.eval().requires_grad_(False)
    kept = agreement(model, seen.images[held], seen.answers[held])
    return Clone(len(seen.images), model, kept)


def _batches(rows: int, plan: FitRecipe) -> Iterator[Tensor]:
    """Row numbers of each step; every pass has an order of its own."""
    left = plan.steps
    while left > 0:
        order = in_batches(torch.randperm(rows), plan.batch_size)[:left]
        yield from order
        left -= len(order)


def _gradients(logits: Tensor, named: Tensor, x: Tensor) -> Tensor:
    """Of the named class's log-probability by pixel, float [B, P], themselves differentiable."""
    value = logits.log_softmax(1).gather(1, named[:, None]).sum()
    (gradient,) = torch.autograd.grad(value, x, create_graph=True)
    return gradient.sum(1).flatten(1)


def _by_part(gradient: Tensor, part: Tensor) -> Tensor:
    """The mean over each superpixel in place of every pixel of it, float [B, P]."""
    inside = F.one_hot(part, PER_SIDE**2).float()
    mean = (gradient[:, None] @ inside)[:, 0] / inside.sum(1).clamp_min(1)
    return mean.gather(1, part)
