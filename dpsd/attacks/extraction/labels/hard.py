"""Attacks on labels with questions that do not depend on the answers."""

from collections.abc import Iterator

import torch
from torch import Tensor

from dpsd.attacks.extraction.clone import (
    Clone,
    Holdings,
    Transcript,
    every_tenth,
    next_images,
    one_hot,
    staged,
    train_clone,
)
from dpsd.attacks.extraction.endpoint import Endpoint
from dpsd.models.augment import DRAWS, augment

VERSIONS = 4
"""How often `augmented` asks about an image, and how many points of a segment `mixup` asks."""
_BETWEEN = 8  # points of each segment that `mixup` learns besides


def basic(endpoint: Endpoint, holdings: Holdings) -> Iterator[Clone]:
    """Ask about random images of the pool and learn the named classes.

    Tramèr et al. 2016; Knockoff Nets with random choice, Orekondy et al. 2019. Where the budget is
    larger than the pool, the same images are asked again.
    """
    return _at_random(endpoint, holdings, "basic")


def top1(endpoint: Endpoint, holdings: Holdings) -> Iterator[Clone]:
    """Ask what `distillation` asks, and learn the named classes alone.

    It is made for defences that keep the likeliest class and change all else.
    """
    return _at_random(endpoint, holdings, "distillation")


def _at_random(endpoint: Endpoint, holdings: Holdings, name: str) -> Iterator[Clone]:
    def ask(transcript: Transcript, count: int) -> None:
        transcript.ask(endpoint, next_images(holdings, transcript.asked, count, name))

    def train(transcript: Transcript) -> Clone:
        return train_clone(transcript, holdings, shape=endpoint.shape)

    return staged(endpoint, holdings, ask, train)


def augmented(endpoint: Endpoint, holdings: Holdings) -> Iterator[Clone]:
    """Ask about random images, each in four versions that are all paid; learn the named classes.

    The first version is the image itself, the others are turned, scaled, sheared and shifted. All
    versions of an image are held out together.
    """
    rng = holdings.rng("augmented")

    def ask(transcript: Transcript, count: int) -> None:
        place = torch.arange(transcript.asked, transcript.asked + count)
        first, last = int(place[0]) // VERSIONS, int(place[-1]) // VERSIONS
        images = next_images(holdings, first, last - first + 1, "augmented")
        images = images[place // VERSIONS - first]
        changed = augment(images, "affine", torch.rand(count, DRAWS, generator=rng))
        itself = (place % VERSIONS == 0)[:, None, None, None]
        transcript.ask(endpoint, torch.where(itself, images, changed))

    def train(transcript: Transcript) -> Clone:
        held = every_tenth(torch.arange(len(transcript)) // VERSIONS)
        return train_clone(transcript, holdings, shape=endpoint.shape, held=held)

    return staged(endpoint, holdings, ask, train)


def mixup(endpoint: Endpoint, holdings: Holdings) -> Iterator[Clone]:
    """Ask about mixtures of pairs, and learn what lies between the named classes.

    Of a pair of images, four points of the segment between them are asked, its ends among them.
    The clone learns random points of the segment too. Their target is interpolated between the
    classes that were named for the two nearest points; mixup (Zhang et al. 2018) has labels of the
    ends alone. All points of a pair are held out together. Questions that are left over ask about
    single images.
    """
    rng = holdings.rng("mixup")
    ends = torch.zeros(0, 2, *endpoint.shape)
    named = torch.zeros(0, VERSIONS, dtype=torch.int64)
    pair = torch.zeros(0, dtype=torch.int64)  # of each row of the transcript; -1: a single image

    def ask(transcript: Transcript, count: int) -> None:
        nonlocal ends, named, pair
        many, taken = count // VERSIONS, 2 * len(ends) + int((pair < 0).sum())
        rest = count - many * VERSIONS
        images = next_images(holdings, taken, 2 * many + rest, "mixup")
        new = images[: 2 * many].unflatten(0, (many, 2)).float()
        points = mixed(new, torch.linspace(0, 1, VERSIONS).expand(many, -1))
        answers = transcript.ask(endpoint, torch.cat([points, images[2 * many :]]))
        number = (len(ends) + torch.arange(many)).repeat_interleave(VERSIONS)
        pair = torch.cat([pair, number, torch.full((rest,), -1)])
        ends = torch.cat([ends, new])
        named = torch.cat([named, answers[: len(points)].argmax(1).view(many, VERSIONS)])

    def train(transcript: Transcript) -> Clone:
        learnt = ~every_tenth(torch.arange(len(ends)))
        share = torch.rand(int(learnt.sum()), _BETWEEN, generator=rng)
        targets = interpolated(one_hot(named[learnt], endpoint.classes), share)
        more = mixed(ends[learnt], share), targets
        held = every_tenth(pair) & (pair >= 0)
        return train_clone(transcript, holdings, shape=endpoint.shape, held=held, more=more)

    return staged(endpoint, holdings, ask, train)


def mixed(ends: Tensor, share: Tensor) -> Tensor:
    """Points of segments, uint8 [N * P, C, H, W].

    Args:
        ends: of each segment, float [N, 2, C, H, W] from 0 to 255.
        share: of the second end, float [N, P].
    """
    part = share[:, :, None, None, None]
    points = ends[:, :1] * (1 - part) + ends[:, 1:] * part
    return points.round().to(torch.uint8).flatten(0, 1)


def interpolated(known: Tensor, share: Tensor) -> Tensor:
    """Targets between points of segments that are evenly spaced, float [N * P, K].

    Args:
        known: targets of the points, float [N, V, K], from one end to the other.
        share: where on each segment, float [N, P] from 0 to 1.
    """
    place = share * (known.shape[1] - 1)
    below = place.floor().clamp(max=known.shape[1] - 2)
    rows = torch.arange(len(known))[:, None]
    left, right = known[rows, below.long()], known[rows, below.long() + 1]
    return torch.lerp(left, right, (place - below)[..., None]).flatten(0, 1)
