"""The image bank: answered images with the likelihoods of their answers, in a sliding window."""

import math
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from dpsd.device import agreed, rank
from dpsd.errors import UserError
from dpsd.files import whole_file
from dpsd.imports import brief
from dpsd.privacy.releases import release_file

MAPPED_ABOVE = 2 * 2**30
"""Bytes of images and scores up to which a bank lies in memory; a larger one lies on disk."""


def bank_bytes(window: int, shape: tuple[int, int, int], classes: int) -> int:
    """Size of a full bank in bytes: one for each pixel, four for each class."""
    return window * (math.prod(shape) + 4 * classes)


class Bank:
    """The newest `window` images with the log-likelihood of their answers, in memory.

    Args:
        window: number of images; newer ones overwrite the oldest.
        shape: channels, height, width.
        classes: K.
    """

    def __init__(self, window: int, shape: tuple[int, int, int], classes: int) -> None:
        self.images = torch.empty((window, *shape), dtype=torch.uint8)
        self.scores = torch.empty((window, classes), dtype=torch.float32)
        self.window, self.added = window, 0

    def __len__(self) -> int:
        return min(self.added, self.window)

    def add(self, images: Tensor, scores: Tensor, position: int | None = None) -> None:
        """Put images in the place of the oldest.

        Args:
            images: uint8 [B, C, H, W].
            scores: float32 [B, K].
            position: of the kept release whose last B images they are; None: none is kept.
        """
        images, scores = images[-self.window :], scores[-self.window :]
        places = (self.added + torch.arange(len(images))) % self.window
        self.images[places] = images
        self.scores[places] = scores
        self.added += len(images)

    def skip(self, count: int) -> None:
        """Leave room for images that have slid out of the window since, in a resumed run."""
        self.added += min(count, self.window)

    def rows(self, places: Tensor) -> tuple[Tensor, Tensor]:
        """Images uint8 [B, C, H, W] and scores float32 [B, K] at places int64 [B]."""
        return self.images[places], self.scores[places]

    def close(self) -> None:
        """Give back what the bank holds outside memory. It is not used afterwards."""

    def schedule(self, new: int, draws: int, rng: torch.Generator) -> Tensor:
        """Places to train on: the `new` newest once each, the rest drawn from the whole window.

        Returns:
            int64 [draws] in random order. With fewer draws than new images, a random part of those.
        """
        newest = (self.added - 1 - torch.arange(min(new, len(self)))) % self.window
        extra = torch.randint(len(self), (max(0, draws - len(newest)),), generator=rng)
        places = torch.cat([newest, extra])
        return places[torch.randperm(len(places), generator=rng)[:draws]]

    def balanced_pass(
        self, balance: float, rng: torch.Generator, classes: Tensor | None = None
    ) -> Tensor:
        """As many places as there are images, rarer classes oftener; each once with balance 0.

        A place is drawn, with replacement, in proportion to the frequency of its class to the power
        of -`balance`.

        Args:
            balance: 0 to 1; with 1 all classes are drawn equally often.
            rng: the only source of randomness.
            classes: of the images, int64 [images]; None: what their answers make likeliest.

        Returns:
            int64 [images] in random order.
        """
        if balance == 0:
            return torch.randperm(len(self), generator=rng)
        if classes is None:
            classes = self.scores[: len(self)].argmax(1)
        counts = classes.bincount(minlength=self.scores.shape[1]).double()
        edges = (counts.clamp(min=1) ** -balance)[classes].cumsum(0)
        drawn = torch.rand(len(self), generator=rng, dtype=torch.float64) * edges[-1]
        return torch.searchsorted(edges, drawn).clamp(max=len(self) - 1)


@dataclass(frozen=True)
class _Part:
    """Images of one round, uint8 [B, C, H, W], mapped; the first is the bank's `start`-th."""

    start: int
    images: Tensor


class MappedBank(Bank):
    """A bank on disk, which all processes of a run share.

    Images are not stored twice: the bank maps the releases that the run keeps. Images that no
    release holds (a replay keeps none) are written beside the scores. Rank 0 writes, and all ranks
    make each `add`.

    Args:
        window: number of images; newer ones take the place of the oldest.
        shape: channels, height, width.
        classes: K.
        releases: the run's `private/bank`.
        folder: for scores and images that no release holds; new, private, removed by `close`.

    Raises:
        UserError: the disk is full, or a rank does not see the folder.
    """

    def __init__(
        self,
        window: int,
        shape: tuple[int, int, int],
        classes: int,
        *,
        releases: Path,
        folder: Path,
    ) -> None:
        self.window, self.added = window, 0
        self._shape, self._releases, self._folder = shape, releases, folder
        self._parts: list[_Part] = []
        path, size = folder / "scores.float32", 4 * window * classes
        agreed(lambda: _make(path, size) if rank() == 0 else None)
        self.scores = agreed(lambda: _mapped_scores(path, window, classes))

    def add(self, images: Tensor, scores: Tensor, position: int | None = None) -> None:
        """As `Bank.add`; all ranks make the call."""
        images, scores = images[-self.window :], scores[-self.window :]
        count = len(images)
        path = agreed(lambda: self._file(images, position))
        if rank() == 0:
            self.scores[(self.added + torch.arange(count)) % self.window] = scores
        part = agreed(lambda: _mapped_images(path)) if count else images
        if count:
            self._parts.append(_Part(self.added, part[len(part) - count :]))
        self.added += count
        self._parts = [p for p in self._parts if p.start + len(p.images) > self.added - self.window]

    def rows(self, places: Tensor) -> tuple[Tensor, Tensor]:
        """As `Bank.rows`; read from disk, or from where the system has kept what it read."""
        numbers = (self.added - 1 - (self.added - 1 - places) % self.window).numpy()
        images = torch.empty((len(places), *self._shape), dtype=torch.uint8)
        starts = np.array([p.start for p in self._parts])
        holders = np.searchsorted(starts, numbers, "right") - 1
        for i in np.unique(holders).tolist():
            at = torch.from_numpy(np.flatnonzero(holders == i))
            part = self._parts[i]
            images[at] = part.images[torch.from_numpy(numbers)[at] - part.start]
        return images, self.scores[places]

    def close(self) -> None:
        """Unmap and remove what is in `folder`; the releases stay."""
        self._parts, self.scores = [], torch.empty(0)
        if rank() == 0:
            for path in self._folder.iterdir():
                path.unlink()
            self._folder.rmdir()

    def _file(self, images: Tensor, position: int | None) -> Path:
        """The file that holds the images; rank 0 writes one where there is none."""
        if position is not None and (kept := release_file(self._releases, position)).exists():
            return kept
        path = self._folder / f"{self.added:012d}.safetensors"
        if rank() == 0:
            with whole_file(path) as partial:
                save_file({"images": images.contiguous()}, partial)
        return path


def open_bank(
    window: int, shape: tuple[int, int, int], classes: int, *, releases: Path, folder: Path
) -> Bank:
    """A bank in memory, or, above `MAPPED_ABOVE` bytes, on disk; all ranks make the call."""
    if bank_bytes(window, shape, classes) <= MAPPED_ABOVE:
        return Bank(window, shape, classes)
    return MappedBank(window, shape, classes, releases=releases, folder=folder)


def _make(path: Path, size: int) -> None:
    """Make a file of zeros whose blocks the disk has set aside: a write to a map cannot fail."""
    try:
        path.parent.mkdir(mode=0o700, exist_ok=True)
        for old in path.parent.iterdir():  # of a process that was stopped
            old.unlink()
        with path.open("wb") as f:
            os.posix_fallocate(f.fileno(), 0, size)
    except OSError as e:
        raise UserError(
            f"loop.window: {size / 2**30:.1f} GiB of scores do not fit into {path.parent} "
            f"({brief(e)}); make room or lower loop.window"
        ) from e


def _mapped_scores(path: Path, window: int, classes: int) -> Tensor:
    _seen(path)
    flat = torch.from_file(str(path), shared=True, size=window * classes, dtype=torch.float32)
    return flat.view(window, classes)


def _mapped_images(path: Path) -> Tensor:
    """The images of a release, mapped: they are read when they are looked at."""
    _seen(path)
    with safe_open(path, "pt") as f:
        images: Tensor = f.get_tensor("images")
    return images


def _seen(path: Path) -> None:
    if not path.exists():
        raise UserError(f"{path}: not seen by rank {rank()}; all ranks need the run's folder")
