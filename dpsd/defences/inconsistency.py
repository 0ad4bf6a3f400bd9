"""Answers whose class is right and whose other probabilities teach nothing true."""

from dataclasses import dataclass

import torch
from torch import Tensor

from dpsd.defences.keyed import uniforms
from dpsd.defences.top import another_class, keep_top
from dpsd.errors import UserError

_SHORT_OF_A_TIE = 0.98  # of what would make another class as likely as the likeliest


@dataclass(frozen=True)
class Inconsistency:
    """Deals the probabilities beside the likeliest class to other classes, as the key says.

    Image and account draw a permutation of all classes but the likeliest, and one class that gets
    `moved` of the likeliest class's probability. Similar images, and the same image under another
    account, thus say different things about which classes are alike, which is what a distilled
    copy learns from (Hinton et al. 2015). The likeliest class always stays the likeliest. So a copy
    that learns named classes alone is not hindered, and the average over many accounts or
    neighbouring images tends to a smoothed label.

    Attributes:
        moved: probability that the likeliest class gives away, from 0 to 0.5; less where it would
            not stay the likeliest.

    Example:
        >>> Inconsistency(moved=0.1)(p, images, key, "alice")
        tensor([[0.5100, 0.3800, 0.1100]], dtype=torch.float64)
    """

    moved: float = 0.3

    name = "inconsistency"
    keeps_top1 = True
    hides_probabilities = False

    def __post_init__(self) -> None:
        if not 0 <= self.moved <= 0.5:
            raise UserError(f"inconsistency: moved {self.moved}; accepted: 0 to 0.5")

    def __call__(self, probabilities: Tensor, images: Tensor, key: bytes, account: str) -> Tensor:
        """As `Defence`."""
        classes = probabilities.shape[1]
        if classes < 2:
            return probabilities
        u = uniforms(images, classes + 1, key=key, purpose="inconsistency", account=account)
        top = probabilities.argmax(1, keepdim=True)
        # The likeliest class comes first in both orders, so that it keeps its place.
        drawn = u[:, :classes].scatter(1, top, -1.0).argsort(dim=1, stable=True)
        plain = torch.zeros_like(u[:, :classes]).scatter(1, top, -1.0).argsort(dim=1, stable=True)
        dealt = torch.zeros_like(probabilities).scatter(1, drawn, probabilities.gather(1, plain))
        other = another_class(top[:, 0], u[:, classes], classes)[:, None]
        best, rival = dealt.gather(1, top), dealt.gather(1, other)
        third = dealt.scatter(1, top, 0.0).scatter(1, other, 0.0).amax(1, keepdim=True)
        most = torch.minimum((best - rival) / 2, best - third) * _SHORT_OF_A_TIE
        moved = most.clamp(0, self.moved)
        dealt = dealt.scatter_add(1, top, -moved).scatter_add(1, other, moved)
        return keep_top(probabilities, dealt)
