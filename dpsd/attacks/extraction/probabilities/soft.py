"""Attacks on probabilities: learn the whole answer."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from dpsd.attacks.extraction.clone import (
    TEMPERATURE,
    Clone,
    Holdings,
    Transcript,
    need_probabilities,
    next_images,
    staged,
    train_clone,
)
from dpsd.attacks.extraction.endpoint import Endpoint

_ERASED, _AREA, _ASPECT = 0.5, (0.02, 0.4), 0.3  # Zhong et al. 2020, section 4.1 and figure 3


def distillation(endpoint: Endpoint, holdings: Holdings) -> Iterator[Clone]:
    """Ask about random images of the pool, learn the probabilities (Hinton et al. 2015).

    Raises:
        UserError: an endpoint that gives labels.
    """
    return _distil(endpoint, holdings, "distillation", None)


def random_erasing(endpoint: Endpoint, holdings: Holdings) -> Iterator[Clone]:
    """As `distillation`, with random rectangles of the asked images erased in training.

    Raises:
        UserError: an endpoint that gives labels.
    """
    return _distil(endpoint, holdings, "random_erasing", erased)


def _distil(
    endpoint: Endpoint,
    holdings: Holdings,
    name: str,
    change: Callable[[Tensor], Tensor] | None,
) -> Iterator[Clone]:
    need_probabilities(endpoint, name)

    def ask(transcript: Transcript, count: int) -> None:
        images = next_images(holdings, transcript.asked, count, "distillation")
        transcript.ask(endpoint, images)

    def train(transcript: Transcript) -> Clone:
        return train_clone(
            transcript, holdings, shape=endpoint.shape, temperature=TEMPERATURE, augment=change
        )

    return staged(endpoint, holdings, ask, train)


def erased(images: Tensor) -> Tensor:
    """Half of the images with a random rectangle of random pixels (Zhong et al. 2020).

    The rectangle covers 2 % to 40 % of the image, its sides have a ratio from 0.3 to 1 / 0.3, and
    it lies wholly in the image. Torch's global generator draws.

    Args:
        images: float [B, C, H, W] from 0 to 1.

    Returns:
        The same shape; other images come back as they are.
    """
    n, _, height, width = images.shape
    draw = torch.rand(5, n, 1)
    area = (_AREA[0] + (_AREA[1] - _AREA[0]) * draw[0]) * height * width
    aspect = _ASPECT ** (2 * draw[1] - 1)
    high = (area * aspect).sqrt().round().clamp(1, height)
    wide = (area / aspect).sqrt().round().clamp(1, width)
    top = (draw[2] * (height - high + 1)).floor()
    left = (draw[3] * (width - wide + 1)).floor()
    rows, columns = torch.arange(height), torch.arange(width)
    inside_rows = (rows >= top) & (rows < top + high)
    inside_columns = (columns >= left) & (columns < left + wide)
    inside = inside_rows[:, :, None] & inside_columns[:, None, :]
    mask = (inside & (draw[4] < _ERASED)[:, :, None])[:, None]
    return torch.where(mask, torch.rand_like(images), images)
