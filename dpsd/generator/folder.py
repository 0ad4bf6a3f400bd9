"""A folder of images that the user declares public, dealt like a pack of cards."""

from collections.abc import Callable

import torch
from torch import Generator, Tensor

Draw = Callable[[int, Generator], Tensor]
"""(n, rng) -> images, uint8 [n, C, H, W]."""


class PublicFolder:
    """The images of a folder in an order that a key fixes; the first follows on the last.

    Args:
        images: uint8 [N, C, H, W], at least one.
        key: of the order.
    """

    def __init__(self, images: Tensor, key: int) -> None:
        self._images = images
        self._order = torch.randperm(len(images), generator=Generator().manual_seed(key))

    def __len__(self) -> int:
        return len(self._images)

    def deal(self, start: int) -> Draw:
        """Draws images from a place of the order on; each call goes on where the last one ended.

        N images in a row are all of the folder's, whatever the place. The random generator that a
        draw is given stays untouched.
        """
        place = start

        def draw(n: int, rng: Generator) -> Tensor:
            nonlocal place
            rows = self._order[(place + torch.arange(n)) % len(self)]
            place += n
            return self._images[rows]

        return draw
