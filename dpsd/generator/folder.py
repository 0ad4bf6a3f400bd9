"""A folder of images that the user declares public, dealt like a pack of cards."""

from collections.abc import Callable

import torch
from torch import Generator, Tensor

from dpsd.data.rows import Images

Draw = Callable[[int, Generator], Tensor]
"""(n, rng) -> images, uint8 [n, C, H, W]."""


class PublicFolder:
    """The images of a folder in an order that a key fixes; the first follows on the last.

    Args:
        images: uint8 [N, C, H, W], at least one; those on disk are read when they are dealt.
        key: of the order.
    """

    def __init__(self, images: Images, key: int) -> None:
        self.images = images
        self._order = torch.randperm(len(images), generator=Generator().manual_seed(key))

    def __len__(self) -> int:
        return len(self.images)

    def deal(self, start: int, n: int) -> Tensor:
        """The numbers of n images from a place of the order on, int64 [n].

        As many in a row as the folder has are all of them, whatever the place.
        """
        return self._order[(start + torch.arange(n)) % len(self)]
