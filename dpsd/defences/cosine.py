"""A keyed wave in the probabilities that a copy learns along with them (CosWM).

Charette et al. 2022, "Cosine Model Watermarking Against Ensemble Distillation" (AAAI), section 3.
The key draws a class, a direction in the space of images and a phase. The probability of the class
rises and falls with the cosine of the image's place along the direction; the other classes share
the rest. Unlike in the paper, the direction is smooth over the image, so that copies learn it
although they pool and shift images, and the phase is secret too.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from dpsd.defences.keyed import key_uniforms
from dpsd.defences.top import keep_top
from dpsd.errors import UserError
from dpsd.models.frozen import Shape

CELLS = 4
"""Drawn values of the direction along each side of an image; others are between them."""
_STEPS = 64  # the direction is whole multiples of 1/64, so that its sums are exact


@dataclass(frozen=True)
class Wave:
    """What a key draws for a model: where in an answer the signal is, and how it runs.

    Attributes:
        target: the class whose probability carries it.
        direction: int64 [C, H, W], in units of 1/64; its mean is 0, its mean square 1.
        phase: radians.
    """

    target: int
    direction: Tensor
    phase: float

    def place(self, images: Tensor) -> Tensor:
        """Where images lie along the direction: float64 [B] of uint8 [B, C, H, W].

        The unit is the root of the number of pixels times the largest pixel value.
        """
        return self._scaled((images.long() * self.direction).flatten(1).sum(1))

    def place_of_pixels(self, pixels: Tensor) -> Tensor:
        """The same, faster and rounded, of float [B, C * H * W] from 0 to 255."""
        return self._scaled(pixels @ self.direction.flatten().to(pixels))

    def _scaled(self, whole: Tensor) -> Tensor:
        return whole.double() / (255 * _STEPS * math.sqrt(self.direction.numel()))


def wave(key: bytes, shape: Shape, classes: int) -> Wave:
    """The wave of a key.

    Args:
        key: at least 16 bytes.
        shape: channels, height, width.
        classes: K.
    """
    channels, height, width = shape
    u = key_uniforms(2 + channels * CELLS * CELLS, key=key, purpose="cosine")
    grid = (2 * u[2:] - 1).view(1, channels, CELLS, CELLS)
    smooth = F.interpolate(grid, (height, width), mode="bicubic", align_corners=True)[0]
    smooth = smooth - smooth.mean()  # else the place is little more than the brightness
    direction = (smooth / smooth.pow(2).mean().sqrt() * _STEPS).round().long()
    return Wave(int(u[0] * classes), direction, float(2 * math.pi * u[1]))


@dataclass(frozen=True)
class Cosine:
    """Adds the wave of the key to an answer; the likeliest class stays.

    Attributes:
        amplitude: epsilon of the paper's equation 4, above 0 and at most 1.
        frequency: radians for each unit of `Wave.place`, above 0.
    """

    amplitude: float = 0.1
    frequency: float = 2.5

    name = "cosine"
    keeps_top1 = True
    hides_probabilities = False

    def __post_init__(self) -> None:
        if not 0 < self.amplitude <= 1:
            raise UserError(f"cosine: amplitude {self.amplitude}; accepted: above 0, at most 1")
        if not 0 < self.frequency < math.inf:
            raise UserError(f"cosine: frequency {self.frequency}; accepted: finite, above 0")

    def __call__(self, probabilities: Tensor, images: Tensor, key: bytes, account: str) -> Tensor:
        """As `Defence`; all accounts see the same wave."""
        classes = probabilities.shape[1]
        if classes < 2 or not len(images):
            return probabilities
        channels, height, width = images.shape[1:]
        drawn = wave(key, (channels, height, width), classes)
        signal = torch.cos(self.frequency * drawn.place(images) + drawn.phase)[:, None]
        added = (1 - signal).expand(-1, classes) / (classes - 1)
        target = torch.full((len(images), 1), drawn.target)
        added = added.scatter(1, target, 1 + signal)
        after = (probabilities + self.amplitude * added) / (1 + 2 * self.amplitude)
        return keep_top(probabilities, after)
