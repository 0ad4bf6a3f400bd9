"""What a run may still ask: the plan's cap, the ledger, and which images were asked already."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dpsd.errors import BudgetError, UserError
from dpsd.privacy.ledger import HASH_BYTES, Hashes, Ledger, image_hashes
from dpsd.privacy.plan import Plan


class Budget:
    """Refuses what a plan does not cover, and charges what it does.

    Args:
        plan: caps on answers and on asks of one image, and the shape of images.
        run: the run's id.
        ledger: holds what the run has asked; None for a replay, which charges nothing.
    """

    def __init__(self, plan: Plan, run: str, ledger: Ledger | None) -> None:
        self._plan, self._run, self._ledger = plan, run, ledger
        self._asked = Asked()
        self.position = 0 if ledger is None else ledger.charged(run)
        if ledger is not None and self.position:
            self._asked.add(ledger.hashes(run))

    def fresh(self, images: Tensor) -> Tensor:
        """Which images may still be asked in this run, bool [B]. Depends on public images alone."""
        hashes = image_hashes(images)
        asks = self._asked.counts(hashes) + copies_before(hashes)
        return torch.from_numpy(asks < self._plan.asks_per_image)

    def check_images(self, images: Tensor) -> None:
        """Refuse what is not a batch of images.

        Raises:
            UserError: wrong shape or type.
        """
        shape = self._plan.facts.shape
        if images.dtype != torch.uint8 or images.ndim != 4 or tuple(images.shape[1:]) != shape:
            raise UserError(
                f"images: {images.dtype} {list(images.shape)}; "
                f"accepted: torch.uint8 [B, {', '.join(map(str, shape))}]"
            )

    def admit(self, images: Tensor) -> Hashes:
        """The hashes of images that may be asked. Nothing is charged yet.

        Raises:
            BudgetError: the cap on answers or on asks of one image would be exceeded.
            UserError: wrong shape or type.
        """
        self.check_images(images)
        hashes = image_hashes(images)
        if self.position + len(hashes) > self._plan.answers:
            raise BudgetError(
                f"privacy.answers: {len(hashes)} more after {self.position} would exceed the cap "
                f"of {self._plan.answers}"
            )
        asks = self._asked.counts(hashes) + copies_before(hashes) + 1
        if len(asks) and asks.max() > self._plan.asks_per_image:
            raise BudgetError(
                f"privacy.asks_per_image: an image would be asked {asks.max()} times; "
                f"accepted: up to {self._plan.asks_per_image}"
            )
        return hashes

    def charge(self, hashes: Hashes) -> int:
        """Charge images durably, before their answers are given; returns the first's position."""
        position = self.position
        if self._ledger is None:
            self.position += len(hashes)
        else:
            self.position = self._ledger.charge(self._run, position, hashes)
        self._asked.add(hashes)
        return position


class Asked:
    """Counts how often images were asked, by the first 8 bytes of their hash.

    A random collision can only count an image too often. Sorted runs of doubling size keep
    insertion and look-up cheap at millions of images.
    """

    def __init__(self) -> None:
        self._runs: list[NDArray[np.uint64]] = []

    def counts(self, hashes: Hashes) -> NDArray[np.int64]:
        """How often each image was added before, int64 [B]."""
        keys, out = _keys(hashes), np.zeros(len(hashes), dtype=np.int64)
        for run in self._runs:
            out += np.searchsorted(run, keys, "right") - np.searchsorted(run, keys, "left")
        return out

    def add(self, hashes: Hashes) -> None:
        """Count these images once more."""
        new = np.sort(_keys(hashes))
        while self._runs and len(self._runs[-1]) <= 2 * len(new):
            new = np.sort(np.concatenate([self._runs.pop(), new]), kind="stable")
        self._runs.append(new)


def _keys(hashes: Hashes) -> NDArray[np.uint64]:
    return np.ascontiguousarray(hashes).view(np.uint64).reshape(-1, HASH_BYTES // 8)[:, 0]


def copies_before(hashes: Hashes) -> NDArray[np.int64]:
    """For each row, how many equal rows stand before it in the batch, int64 [B]."""
    keys = _keys(hashes)
    order = np.argsort(keys, kind="stable")
    ordered = keys[order]
    starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
    rank = np.arange(len(keys)) - np.repeat(starts, np.diff(np.r_[starts, len(keys)]))
    out = np.empty(len(keys), dtype=np.int64)
    out[order] = rank
    return out
