"""The image bank: answered images with the likelihoods of their answers, in a sliding window."""

import math

import torch
from torch import Tensor


def bank_bytes(window: int, shape: tuple[int, int, int], classes: int) -> int:
    """Memory of a full bank in bytes: one for each pixel, four for each class."""
    return window * (math.prod(shape) + 4 * classes)


class Bank:
    """The newest `window` images with the log-likelihood of their answers.

    Args:
        window: number of images; newer ones overwrite the oldest.
        shape: channels, height, width.
        classes: K.
    """

    def __init__(self, window: int, shape: tuple[int, int, int], classes: int) -> None:
        self.images = torch.empty((window, *shape), dtype=torch.uint8)
        self.scores = torch.empty((window, classes), dtype=torch.float32)
        self.added = 0

    def __len__(self) -> int:
        return min(self.added, len(self.images))

    def add(self, images: Tensor, scores: Tensor) -> None:
        """Add uint8 images [B, C, H, W] and scores float32 [B, K] in the place of the oldest."""
        window = len(self.images)
        images, scores = images[-window:], scores[-window:]
        places = (self.added + torch.arange(len(images))) % window
        self.images[places] = images
        self.scores[places] = scores
        self.added += len(images)

    def schedule(self, new: int, draws: int, rng: torch.Generator) -> Tensor:
        """Places to train on: the `new` newest once each, the rest drawn from the whole window.

        Returns:
            int64 [draws] in random order. With fewer draws than new images, a random part of those.
        """
        window = len(self.images)
        newest = (self.added - 1 - torch.arange(min(new, len(self)))) % window
        extra = torch.randint(len(self), (max(0, draws - len(newest)),), generator=rng)
        places = torch.cat([newest, extra])
        return places[torch.randperm(len(places), generator=rng)[:draws]]
