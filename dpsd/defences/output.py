"""Output control: say less than the model knows."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from dpsd.defences.top import likeliest
from dpsd.errors import UserError


@dataclass(frozen=True)
class Labels:
    """The likeliest class and no more: probability 1 for it.

    Example:
        >>> Labels()(p, images, key, "alice")
        tensor([[1., 0., 0.]], dtype=torch.float64)
    """

    name = "labels"
    keeps_top1 = True
    hides_probabilities = True

    def __call__(self, probabilities: Tensor, images: Tensor, key: bytes, account: str) -> Tensor:
        """As `Defence`."""
        return F.one_hot(probabilities.argmax(1), probabilities.shape[1]).double()


@dataclass(frozen=True)
class TopK:
    """The probabilities of the `k` likeliest classes; all others are 0.

    Example:
        >>> TopK(k=2)(p, images, key, "alice")
        tensor([[0.6100, 0.2800, 0.0000]], dtype=torch.float64)
    """

    k: int = 3

    name = "top_k"
    keeps_top1 = True
    hides_probabilities = False

    def __post_init__(self) -> None:
        if self.k < 1:
            raise UserError(f"top_k: k {self.k}; accepted: from 1")

    def __call__(self, probabilities: Tensor, images: Tensor, key: bytes, account: str) -> Tensor:
        """As `Defence`; rows sum to what the classes that are named have."""
        best = likeliest(probabilities, self.k)
        return torch.zeros_like(probabilities).scatter(1, best, probabilities.gather(1, best))


@dataclass(frozen=True)
class Rounding:
    """Probabilities rounded to `digits` decimal places; the likeliest class stays the likeliest.

    Where rounding makes another class equal to the likeliest, that class loses one unit. Where all
    classes round to 0, the likeliest gets one.

    Example:
        >>> Rounding(digits=1)(p, images, key, "alice")
        tensor([[0.6000, 0.3000, 0.1000]], dtype=torch.float64)
    """

    digits: int = 2

    name = "rounding"
    keeps_top1 = True
    hides_probabilities = False

    def __post_init__(self) -> None:
        if not 1 <= self.digits <= 12:
            raise UserError(f"rounding: digits {self.digits}; accepted: 1 to 12")

    def __call__(self, probabilities: Tensor, images: Tensor, key: bytes, account: str) -> Tensor:
        """As `Defence`; rows sum to 1 up to K units."""
        unit = 10.0**-self.digits
        top = probabilities.argmax(1, keepdim=True)
        rounded = (probabilities / unit).round()
        best = rounded.gather(1, top).clamp_min(1)
        rounded = torch.minimum(rounded, best - 1).scatter(1, top, best)
        return rounded * unit
