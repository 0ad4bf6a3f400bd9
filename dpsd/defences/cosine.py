"""Keyed waves in the probabilities that a copy learns along with them (CosWM).

Charette et al. 2022, "Cosine Model Watermarking Against Ensemble Distillation" (AAAI), section 3.
The key draws a direction in the space of images and a phase. A probability rises and falls with
the cosine of the image's place along the direction. Three things differ from the paper. Every class
has a wave of its own and not one class alone, which a test adds up. Directions are smooth over the
image, so that copies learn them although they pool and shift images. Phases are secret too.
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
MOST = 16
"""Waves of a key."""
_STEPS = 64  # the direction is whole multiples of 1/64, so that its sums are exact


@dataclass(frozen=True)
class Waves:
    """What a key draws: a direction and a phase for each class.

    Attributes:
        directions: float64 [K, C * H * W], whole numbers: multiples of 1/64 pixel weights. Their
            mean is 0 and their mean square 1, up to rounding.
        phases: float64 [K], radians.
    """

    directions: Tensor
    phases: Tensor

    def signals(self, pixels: Tensor, frequency: float) -> tuple[Tensor, Tensor]:
        """Each class's wave at images, and the same a quarter of its length later.

        Args:
            pixels: float64 [B, C * H * W], whole numbers from 0 to 255.
            frequency: radians for each unit of an image's place, which is the weighted sum of its
                pixels from 0 to 1 over the root of their number.

        Returns:
            float64 [B, K] from -1 to 1, twice.
        """
        unit = 255 * _STEPS * math.sqrt(pixels.shape[1])
        # Sums of whole numbers are exact, in any order and batch.
        angle = frequency / unit * (pixels @ self.directions.T) + self.phases
        return angle.cos(), angle.sin()


def waves(key: bytes, shape: Shape, classes: int) -> Waves:
    """The waves of a key.

    Args:
        key: at least 16 bytes.
        shape: channels, height, width.
        classes: K. Beyond the first `MOST`, classes have the waves of those before them.
    """
    (channels, height, width), count = shape, min(classes, MOST)
    cells = channels * CELLS * CELLS
    u = key_uniforms(count * (1 + cells), key=key, purpose="cosine").view(count, 1 + cells)
    grid = (2 * u[:, 1:] - 1).view(count, channels, CELLS, CELLS)
    smooth = F.interpolate(grid, (height, width), mode="bicubic", align_corners=True).flatten(1)
    smooth = smooth - smooth.mean(1, keepdim=True)  # else the place is little but the brightness
    directions = (smooth / smooth.pow(2).mean(1, keepdim=True).sqrt() * _STEPS).round()
    which = torch.arange(classes) % count
    return Waves(directions[which], 2 * math.pi * u[which, 0])


@dataclass(frozen=True)
class Cosine:
    """Adds the waves of the key to an answer; the likeliest class stays.

    Attributes:
        amplitude: mean probability that all waves together add, before the sum is 1 again; above 0,
            at most 1. Epsilon of the paper's equation 4.
        frequency: as in `Waves.signals`, above 0.

    Example:
        >>> Cosine(amplitude=0.1)(p, images, key, "alice")
        tensor([[0.6032, 0.2752, 0.1217]], dtype=torch.float64)
    """

    amplitude: float = 0.1
    frequency: float = 0.8

    name = "cosine"
    keeps_top1 = True
    hides_probabilities = False

    def __post_init__(self) -> None:
        if not 0 < self.amplitude <= 1:
            raise UserError(f"cosine: amplitude {self.amplitude}; accepted: above 0, at most 1")
        if not 0 < self.frequency < math.inf:
            raise UserError(f"cosine: frequency {self.frequency}; accepted: finite, above 0")

    def __call__(self, probabilities: Tensor, images: Tensor, key: bytes, account: str) -> Tensor:
        """As `Defence`; all accounts see the same waves."""
        classes = probabilities.shape[1]
        if classes < 2 or not len(images):
            return probabilities
        channels, height, width = images.shape[1:]
        drawn = waves(key, (channels, height, width), classes)
        signals, _ = drawn.signals(images.flatten(1).double(), self.frequency)
        after = probabilities + self.amplitude * (1 + signals) / classes
        return keep_top(probabilities, after / after.sum(1, keepdim=True))
