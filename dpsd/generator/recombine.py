"""New candidates from earlier queries, evenly over the classes that the student sees in them.

Random pictures look like a few classes and hardly ever like others. Queries that the student
assigns to a rare class are varied and blended in pairs. So each class gets its share of candidates.
Those that are asked serve as parents of the next ones. All of it post-processes released answers.
"""

import math
from collections.abc import Callable

import torch
from torch import Generator, Tensor

from dpsd.device import joined
from dpsd.models.augment import affine

POOL_BYTES = 2**30
"""All parents together take at most so many bytes, in memory and in each checkpoint."""
_KEPT = 1000  # parents of a class, at most
_NEW = 0.4  # of a class's parents come from one round, at most
_LEAST = 20  # parents of a class before it breeds, or as many as fit
_CHUNK = 512

Pieces = Callable[[int, int, Callable[[int], Tensor]], Tensor]
"""Joins so many rows from so many pieces; the function makes a piece by its number."""


def _in_order(rows: int, pieces: int, work: Callable[[int], Tensor]) -> Tensor:
    return joined(rows, map(work, range(pieces)))


def parents_of_a_class(shape: tuple[int, int, int], classes: int) -> int:
    """How many images [C, H, W] of each class are kept as parents, at most.

    1,000, or as many as `POOL_BYTES` hold: 7 of 1,000 classes at 3 x 224 x 224.
    """
    return min(_KEPT, POOL_BYTES // (classes * math.prod(shape)))


class Pool:
    """The newest queries of each class, by the student's prediction.

    Args:
        shape: (C, H, W) of the images.
        classes: K.
    """

    def __init__(self, shape: tuple[int, int, int], classes: int) -> None:
        self.images: dict[int, Tensor] = {}
        self._kept = parents_of_a_class(shape, classes)

    def add(self, images: Tensor, classes: Tensor) -> None:
        """Take in queries, uint8 [B, C, H, W], by the student's classes for them, int64 [B]."""
        for c in classes.unique().tolist():
            new = images[classes == c][: math.ceil(_NEW * self._kept)]
            self.images[c] = torch.cat([new, self.images.get(c, new[:0])])[: self._kept]

    def draw(self, n: int, rng: Generator, pieces: Pieces = _in_order) -> Tensor | None:
        """N variants, uint8 [n, C, H, W], evenly over the classes known; None if there are none.

        They are made in chunks that have a random stream each; `pieces` puts them together.
        """
        least = max(1, min(_LEAST, self._kept))
        known = [pool for pool in self.images.values() if len(pool) >= least]
        if not known or n == 0:
            return None
        which = torch.randint(len(known), (n,), generator=rng)
        picked = torch.empty((2, n), dtype=torch.int64)
        for i, pool in enumerate(known):
            rows = (which == i).nonzero()[:, 0]
            picked[:, rows] = torch.randint(len(pool), (2, len(rows)), generator=rng)
        parts = list(zip(which.split(_CHUNK), picked.split(_CHUNK, 1), strict=True))
        seeds = torch.randint(2**62, (len(parts),), generator=rng).tolist()

        def work(i: int) -> Tensor:
            return recombine(*_pairs(known, *parts[i]), Generator().manual_seed(seeds[i]))

        return pieces(n, len(parts), work)

    def state_dict(self) -> dict[int, Tensor]:
        """The images kept, by class, in the order in which classes were found."""
        return dict(self.images)

    def load_state_dict(self, state: dict[int, Tensor]) -> None:
        """The inverse of `state_dict`."""
        self.images = dict(state)


def _pairs(pools: list[Tensor], which: Tensor, picked: Tensor) -> tuple[Tensor, Tensor]:
    """Images `picked`, int64 [2, B], of pools `which`, int64 [B]: twice uint8 [B, C, H, W]."""
    pairs = torch.empty((2, len(which), *pools[0].shape[1:]), dtype=torch.uint8)
    for i in which.unique().tolist():
        rows = (which == i).nonzero()[:, 0]
        pairs[:, rows] = pools[i][picked[:, rows]]
    return pairs[0], pairs[1]


def recombine(a: Tensor, b: Tensor, rng: Generator) -> Tensor:
    """Vary both images; keep the first or join the two; change the contrast.

    A fifth each is the brighter, the darker or a weighted mean of the two; the rest is the first.

    Args:
        a: uint8 [B, C, H, W].
        b: uint8 [B, C, H, W].
        rng: the only source of randomness.

    Returns:
        uint8 [B, C, H, W].
    """
    x, y = _varied(a, rng), _varied(b, rng)
    kind, weight, gain = torch.rand(3, len(a), 1, 1, 1, generator=rng)
    joined = torch.where(kind < 0.2, torch.maximum(x, y), x)
    joined = torch.where((kind >= 0.2) & (kind < 0.4), torch.minimum(x, y), joined)
    joined = torch.where((kind >= 0.4) & (kind < 0.6), torch.lerp(x, y, weight), joined)
    joined *= torch.exp(gain - 0.5)
    return joined.clamp_(0, 1).mul_(255).round_().to(torch.uint8)


def _varied(images: Tensor, rng: Generator) -> Tensor:
    """Turned, stretched, sheared, mirrored and shifted a little; float in [0, 1]."""
    n = len(images)
    turn, wide, high, shear, right, down = torch.randn(6, n, generator=rng)
    mirror = torch.where(torch.rand(n, generator=rng) < 0.5, -1.0, 1.0)
    return affine(
        images.float().div_(255), turn=0.2 * turn, wide=torch.exp(0.2 * wide) * mirror,
        high=torch.exp(0.2 * high), shear=0.15 * shear, right=0.15 * right, down=0.15 * down,
    )  # fmt: skip
