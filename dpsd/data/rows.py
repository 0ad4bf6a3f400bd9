"""Rows that stay on disk: images are read and decoded when somebody asks for them.

They know the part of a tensor's interface that readers of rows use: `len`, `shape`, an index of
rows, and `split`. Threads decode: Pillow and numpy release the interpreter's lock while they work.
"""

import bisect
import itertools
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dpsd.errors import UserError

IN_MEMORY_BYTES = 2 * 2**30
"""Training and test images that are larger than this once decoded stay on disk."""
_AHEAD = 2  # batches that are decoded while the caller works on one
_PIECE = 8  # images that a thread decodes in one go


class Source(Protocol):
    """Images on disk, numbered from 0. Threads read them at the same time."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height, width of every image once read."""

    def read(self, number: int) -> NDArray[np.uint8]:
        """One image, uint8 [C, H, W].

        Raises:
            UserError: one line that names the file.
        """

    def mark(self, number: int) -> bytes:
        """Name, size and time of an image: they tell a changed image without reading it.

        Raises:
            UserError: the file is gone.
        """


@dataclass(frozen=True, eq=False)
class DiskRows:
    """Some rows of a source, in an order of their own."""

    source: Source
    numbers: Tensor
    """int64 [N]: the row's number in the source."""

    @property
    def shape(self) -> torch.Size:
        """[N, C, H, W]."""
        return torch.Size([len(self.numbers), *self.source.shape])

    @property
    def nbytes(self) -> int:
        """Size once decoded."""
        return self.shape.numel()

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, rows: Tensor | slice) -> Tensor:
        """The images of these rows (int64 [M], bool [N] or a slice), uint8 [M, C, H, W]."""
        index = torch.arange(len(self))[rows]
        return next(iter(ahead(self, [index])))[1]

    def split(self, size: int) -> Iterator[Tensor]:
        """All images in batches of `size`, the last may be smaller; read ahead of the caller."""
        return (images for _, images in ahead(self, torch.arange(len(self)).split(size)))


Images = Tensor | DiskRows
"""uint8 [N, C, H, W], in memory or on disk."""


def ahead(images: Images, batches: Iterable[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
    """Row numbers and images of each batch, in order.

    Rows on disk are decoded by as many threads as torch computes with, up to two batches ahead of
    the caller; no more than three batches are in memory. So `batches` must not depend on what the
    caller does with the batch before.

    Args:
        images: N rows.
        batches: int64 [B] each.

    Raises:
        UserError: an image is missing or unreadable; one line that names it.
    """
    if isinstance(images, Tensor):
        yield from ((rows, images[rows]) for rows in batches)
        return
    pool = ThreadPoolExecutor(max(1, torch.get_num_threads()), "decode")
    waiting: deque[tuple[Tensor, Tensor, list[Future[None]]]] = deque()
    try:
        for rows in batches:
            waiting.append((rows, *_decode(images, rows, pool)))
            if len(waiting) > _AHEAD:
                yield _done(*waiting.popleft())
        while waiting:
            yield _done(*waiting.popleft())
    finally:
        pool.shutdown(cancel_futures=True)


def _decode(
    images: DiskRows, rows: Tensor, pool: ThreadPoolExecutor
) -> tuple[Tensor, list[Future[None]]]:
    out = torch.empty((len(rows), *images.source.shape), dtype=torch.uint8)
    pixels, numbers = out.numpy(), images.numbers[rows].tolist()

    def fill(first: int) -> None:
        for i, number in enumerate(numbers[first : first + _PIECE], first):
            pixels[i] = images.source.read(number)

    return out, [pool.submit(fill, first) for first in range(0, len(numbers), _PIECE)]


def _done(rows: Tensor, images: Tensor, pieces: list[Future[None]]) -> tuple[Tensor, Tensor]:
    for piece in pieces:
        piece.result()
    return rows, images


def pick(images: Images, rows: Tensor) -> Images:
    """The images of these rows (int64 [M] or bool [N]). Those on disk stay there."""
    if isinstance(images, Tensor):
        return images[rows]
    return DiskRows(images.source, images.numbers[rows])


def join(parts: Iterable[Images]) -> Images:
    """All rows of the parts; on disk where one part is."""
    parts = list(parts)
    on_disk = [part for part in parts if isinstance(part, DiskRows)]
    if not on_disk:
        return torch.cat([part for part in parts if isinstance(part, Tensor)])
    source = on_disk[0].source
    if len(on_disk) == len(parts) and all(part.source is source for part in on_disk):
        return DiskRows(source, torch.cat([part.numbers for part in on_disk]))
    joined = _Joined(parts)
    return DiskRows(joined, torch.arange(joined.starts[-1]))


class _Joined:
    """Several parts as one source."""

    def __init__(self, parts: list[Images]) -> None:
        self._parts = parts
        self.starts = [0, *itertools.accumulate(len(part) for part in parts)]
        channels, height, width = parts[0].shape[1:]
        self.shape = (channels, height, width)

    def _place(self, number: int) -> tuple[Images, int]:
        part = bisect.bisect_right(self.starts, number) - 1
        return self._parts[part], number - self.starts[part]

    def read(self, number: int) -> NDArray[np.uint8]:
        part, row = self._place(number)
        if isinstance(part, Tensor):
            return np.asarray(part[row].numpy())
        return part.source.read(int(part.numbers[row]))

    def mark(self, number: int) -> bytes:
        part, row = self._place(number)
        if isinstance(part, Tensor):
            return part[row].numpy().tobytes()
        return part.source.mark(int(part.numbers[row]))


def fits_in_memory(nbytes: int) -> bool:
    """Whether images of this size, once decoded, are held in memory."""
    return nbytes <= IN_MEMORY_BYTES


def on_disk_line(images: int, nbytes: int) -> str:
    """Where so many images of this decoded size lie, in one sentence."""
    return (
        f"{images:,} private images take {nbytes / 2**30:.1f} GiB once decoded, more than "
        f"{IN_MEMORY_BYTES / 2**30:g}: they stay on disk, and {torch.get_num_threads()} thread(s) "
        "decode them when they are needed"
    )


def in_memory(images: Images, why: str) -> Tensor:
    """The images as one tensor, for code that works on all of them at once.

    Raises:
        UserError: they stay on disk and are larger than `IN_MEMORY_BYTES`; `why` says in the
            message who needs them in memory.
    """
    if isinstance(images, Tensor):
        return images
    if not fits_in_memory(images.nbytes):
        raise UserError(
            f"data: {len(images):,} images of {images.nbytes / 2**30:.1f} GiB stay on disk, and "
            f"{why} needs them in memory; accepted: up to {IN_MEMORY_BYTES / 2**30:g} GiB; use "
            "fewer rows or a smaller data.shape"
        )
    return images[:]
