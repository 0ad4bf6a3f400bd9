"""Find the units of a two-layer ReLU network: where answers along a line change their slope.

Jagielski et al., *High Accuracy and High Fidelity Extraction of Neural Networks* (USENIX Security
2020), section 6. Images are whole grey levels here, so that lines go through whole numbers.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

POINTS = 64
"""Steps of a line."""
STEP = 8
"""Grey levels by which one pixel is changed for a gradient."""
_KINK = 30.0  # a second difference is a kink from so many times the median, which is rounding
_LEAST = 1e-4  # and from this share of the largest slope
_RANK_ONE = 0.05  # second singular value, by the first: below it one unit alone changed
_SLACK = 1e-6  # a side that a unit has by less may be the other one
_SAME = 0.99  # cosine of two directions that are one unit

Logits = Callable[[Tensor], Tensor]
"""uint8 [B, C, H, W] -> logits less their mean over the classes, float64 [B, K]; each is paid."""


@dataclass(frozen=True)
class Unit:
    """A hidden unit up to scale and sign: it changes sides where weight . x + bias = 0.

    Attributes:
        weight: float64 [D], length 1; x are pixels from 0 to 1.
        bias: a number.
    """

    weight: Tensor
    bias: float

    def is_like(self, other: "Unit") -> bool:
        """Whether the two are one unit, found twice."""
        return abs(float(self.weight @ other.weight)) > _SAME

    def turns(self, points: Tensor, one: "Stretch", other: "Stretch") -> bool:
        """Whether it changes sides between two stretches that are at most one step apart."""
        ends = points[[one.last, other.first]].double().flatten(1) / 255
        near = other.first - one.last <= 1
        return near and bool((ends @ self.weight + self.bias).prod() <= _SLACK)


@dataclass(frozen=True)
class Stretch:
    """A piece of a line on which answers are linear: places first to last."""

    first: int
    last: int

    @property
    def middle(self) -> int:
        """The place farthest from both kinks."""
        return (self.first + self.last) // 2


def line(start: Tensor, end: Tensor) -> Tensor:
    """Points from an image towards another, in equal whole steps: uint8 [P + 1, C, H, W].

    The last point falls short of the other image by what is left over of the division.
    """
    step = torch.div(end.int() - start.int(), POINTS, rounding_mode="trunc")
    return (start.int() + torch.arange(POINTS + 1)[:, None, None, None] * step).to(torch.uint8)


def stretches(logits: Tensor) -> list[Stretch]:
    """Linear pieces of three points or more, of logits along a line, float64 [P + 1, K].

    A kink between two places bends the points on both sides of it.
    """
    slope = logits.diff(dim=0)
    bend = slope.diff(dim=0).norm(dim=1)  # at places 1 .. P - 1
    least = max(_KINK * float(bend.median()), _LEAST * float(slope.norm(dim=1).max()))
    found, first = list[Stretch](), 0
    for place in range(1, len(logits)):
        if place == len(logits) - 1 or float(bend[place - 1]) > least:
            found.append(Stretch(first, place))
            first = place
    return [s for s in found if s.last - s.first > 1]


def gradient(image: Tensor, at: Tensor, ask: Logits) -> Tensor:
    """Slopes of the logits with regard to pixels from 0 to 1, float64 [D, K].

    Args:
        image: uint8 [C, H, W].
        at: its logits, float64 [K].
        ask: answers D questions, each with one pixel changed towards the middle of its range.
    """
    pixels = image.numel()
    step = torch.where(image.flatten() < 128, STEP, -STEP)
    probes = (image.flatten().int() + torch.diag(step)).to(torch.uint8).view(pixels, *image.shape)
    return (ask(probes) - at) / (step[:, None] / 255)


def unit_between(
    before: Tensor, after: Tensor, logits: Tensor, points: Tensor, one: Stretch, other: Stretch
) -> Unit | None:
    """The unit that changed between two stretches; None where it was not one alone.

    Args:
        before: gradient on the first stretch, float64 [D, K].
        after: gradient on the second.
        logits: along the line, float64 [P + 1, K].
        points: of the line, uint8 [P + 1, C, H, W].
        one: the first stretch.
        other: the second.
    """
    left, size, right = torch.linalg.svd(after - before, full_matrices=False)
    if float(size[0]) == 0 or float(size[1]) > _RANK_ONE * float(size[0]):
        return None
    along = logits @ right[0]
    a, b = ((along[s.last] - along[s.first]) / (s.last - s.first) for s in (one, other))
    ahead, back = along[other.first] - b * other.first, along[one.first] - a * one.first
    flat = points.double().flatten(1) / 255
    where = flat[0] + (ahead - back) / (a - b) * (flat[1] - flat[0])
    return Unit(left[:, 0], -float(left[:, 0] @ where))
