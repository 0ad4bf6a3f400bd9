"""Noise of bounded size that leaves the likeliest class as it is."""

from dataclasses import dataclass

import torch
from torch import Tensor

from dpsd.defences.keyed import uniforms
from dpsd.defences.top import keep_top
from dpsd.errors import UserError

_SHORT_OF_A_TIE = 0.98  # of the way to where another class is as likely as the likeliest


@dataclass(frozen=True)
class Noise:
    """Moves each answer towards a random distribution that the key and the image draw.

    The L1 distance to the true answer is `size`, or less where the likeliest class would change or
    the random distribution is nearer. All accounts get the same noise, so that more accounts do not
    average it away; similar images do.

    Attributes:
        size: largest L1 distance, above 0 and at most 2.

    Example:
        >>> Noise(size=0.2)(p, images, key, "alice")
        tensor([[0.5755, 0.2145, 0.2100]], dtype=torch.float64)
    """

    size: float = 0.2

    name = "noise"
    keeps_top1 = True
    hides_probabilities = False

    def __post_init__(self) -> None:
        if not 0 < self.size <= 2:
            raise UserError(f"noise: size {self.size}; accepted: above 0, at most 2")

    def __call__(self, probabilities: Tensor, images: Tensor, key: bytes, account: str) -> Tensor:
        """As `Defence`."""
        p = probabilities
        drawn = -(1 - uniforms(images, p.shape[1], key=key, purpose="noise")).log()
        towards = drawn / drawn.sum(1, keepdim=True).clamp_min(1e-300)
        distance = (towards - p).abs().sum(1, keepdim=True).clamp_min(1e-300)
        step = (self.size / distance).clamp(max=1.0)
        top = p.argmax(1, keepdim=True)
        lead, lost = p.gather(1, top) - p, towards - towards.gather(1, top)
        tie = torch.where(lost > 0, lead / (lead + lost).clamp_min(1e-300), 1 / _SHORT_OF_A_TIE)
        tie = tie.scatter(1, top, 1 / _SHORT_OF_A_TIE).amin(1, keepdim=True)
        step = torch.minimum(step, _SHORT_OF_A_TIE * tie)
        return keep_top(p, p + step * (towards - p))
