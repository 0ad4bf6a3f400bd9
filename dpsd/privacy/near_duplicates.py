"""How many queries look almost like an earlier one: answers to look-alikes say alike.

The unit answer is one entry of the teacher's input-output table, and an entry is one exact image.
An image that differs in one grey level is another entry. Its answer is charged and noised on its
own, yet it says almost the same.
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from dpsd.privacy.releases import load_release

DISTANCE = 8.0
"""Grey levels of 255. On the priors of digits, MNIST and CIFAR-10 it takes in every image with
noise of 5 grey levels per pixel, and 12 to 36 % of those shifted by one pixel. Of two independent
images it takes in 4 in a million (MNIST) to 4 in ten thousand (CIFAR-10). Independent images crowd
as they grow more: of MNIST's strokes 0.5 % lie near an earlier one among 2,000, 4 % among 40,000
and 9 % among 400,000. At 12 grey levels these would be 4, 17 and 27 %."""

KEPT = 400_000
"""Descriptors that later queries are compared with, the newest: 25.6 MB."""

_SIDE = 8
_CHUNK = 4096
_CHUNK_VALUES = 2**23  # of a chunk of images: 32 MiB of floats
_BLOCK = 2048


@dataclass(frozen=True)
class NearDuplicates:
    """The rate of near-duplicates among queries.

    Attributes:
        share: of the queries looked at, those within `distance` of an earlier one; None where
            there are fewer than 2 queries.
        distance: root mean square difference of two descriptors, in grey levels of 255.
        compared: the queries given.
        sampled: the queries looked at, each against all earlier ones.
    """

    share: float | None
    distance: float
    compared: int
    sampled: int


def near_duplicates(batches: Iterable[Tensor], *, sampled: int = 1000) -> NearDuplicates:
    """The share of queries that look almost like an earlier one.

    An image is described by its grey levels, averaged to 8 x 8. A fixed seed picks the queries to
    look at, uniformly among all. Each is compared with the earlier ones of its batch and with the
    `KEPT` newest before that. So memory is bounded, and the share is a lower bound where more were
    asked. Descriptors are whole numbers: no sum is rounded, and the result depends neither on
    threads nor, up to `KEPT` queries, on how they are batched.

    Args:
        batches: uint8 [B, C, H, W] each, in the order in which they were asked.
        sampled: the most queries to look at.
    """
    rng = np.random.default_rng(0)
    kept = torch.empty((0, _SIDE * _SIDE), dtype=torch.uint8)
    count, keys, near = 0, np.empty(0), np.empty(0, dtype=bool)
    for images in _chunks(batches):
        new = descriptors(images)
        # The smallest of one random key per query are a uniform sample, however long the stream.
        drawn = rng.random(len(new))
        merged = np.concatenate([keys, drawn])
        chosen = np.sort(np.argsort(merged, kind="stable")[:sampled])
        entered = torch.from_numpy(chosen[chosen >= len(keys)] - len(keys))
        found = _near(new, entered, kept[:count])
        near = np.concatenate([near[chosen[chosen < len(keys)]], found.numpy()])
        keys = merged[chosen]
        kept = _keep(kept, new, count)
        count += len(new)
    share = float(near.mean()) if count > 1 and len(near) else None
    return NearDuplicates(share, DISTANCE, count, len(near))


def descriptors(images: Tensor) -> Tensor:
    """Grey images in 8 x 8 averages, in grey levels.

    Args:
        images: uint8 [B, C, H, W].

    Returns:
        uint8 [B, 64].
    """
    grey = images.float().mean(1, keepdim=True)
    return F.adaptive_avg_pool2d(grey, _SIDE).flatten(1).round().to(torch.uint8)


def kept_queries(folder: Path) -> Iterator[Tensor]:
    """The images of the releases that a run keeps, in the order in which they were asked.

    Args:
        folder: the run's `private/bank`. Releases that have slid out of `loop.window` are gone.

    Yields:
        uint8 [B, C, H, W] for each release.

    Raises:
        UserError: a release is damaged.
    """
    for position in sorted(int(path.stem) for path in folder.glob("*.safetensors")):
        yield load_release(folder, position)[0]


def _chunks(batches: Iterable[Tensor]) -> Iterator[Tensor]:
    for images in batches:
        if len(images):
            values = math.prod(images.shape[1:])
            yield from images.split(max(1, min(_CHUNK, _CHUNK_VALUES // values)))


def _keep(kept: Tensor, new: Tensor, count: int) -> Tensor:
    """A ring: query q lies at q modulo `KEPT`. It doubles until it is full-sized."""
    if count + len(new) > len(kept) < KEPT:
        size = min(KEPT, max(2 * len(kept), count + len(new), _CHUNK))
        kept = torch.cat([kept, kept.new_empty((size - len(kept), kept.shape[1]))])
    kept[torch.arange(count, count + len(new)) % KEPT] = new
    return kept


def _near(new: Tensor, rows: Tensor, kept: Tensor) -> Tensor:
    """Which rows of `new` lie within `DISTANCE` of an earlier row or of a kept one, bool [R]."""
    if not len(rows):
        return torch.empty(0, dtype=torch.bool)
    asked = new[rows].float()
    inside = _squared_less_own(asked, new.float())
    inside[torch.arange(len(new)) >= rows[:, None]] = math.inf
    least = inside.amin(1)
    for block in kept.split(_BLOCK) if len(kept) else ():
        least = torch.minimum(least, _squared_less_own(asked, block.float()).amin(1))
    return least + asked.square().sum(1) <= _SIDE * _SIDE * DISTANCE**2


def _squared_less_own(asked: Tensor, others: Tensor) -> Tensor:
    """|b|^2 - 2 ab, [R, M]: the squared distance less |a|^2. Whole numbers below 2^24: exact."""
    return torch.addmm(others.square().sum(1), asked, others.T, alpha=-2)
