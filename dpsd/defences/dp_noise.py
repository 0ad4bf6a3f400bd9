"""Randomised response on the class that an answer names."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from dpsd.defences.keyed import uniforms
from dpsd.defences.top import another_class
from dpsd.errors import UserError


@dataclass(frozen=True)
class DpNoise:
    """Names the likeliest class with probability e^eps / (e^eps + K - 1), else another one.

    K-ary randomised response (Kairouz et al. 2016, section 4) with a draw that the key and the
    image fix: whoever asks again, under any account, gets the answer that was given.

    What `epsilon` means: the unit is one answer, one entry of the served model's table from exact
    images to classes. Take two models that name the same class for every image but one. Over the
    choice of the key, all answers together, repeated ones too, are at most e^eps times likelier
    from one model than from the other, for an observer who cannot tell SHAKE-256 from random. Every
    other image, also one that differs in a single pixel, has a draw and an epsilon of its own; they
    add up where two models differ on several images. This is no privacy of records: one training
    record may change every entry of the table, so that no bound for records follows.

    Attributes:
        epsilon: of one answer, above 0.

    Example:
        >>> DpNoise(epsilon=2)(p, images, key, "alice")
        tensor([[1., 0., 0.]], dtype=torch.float64)
    """

    epsilon: float = 2.0

    name = "dp_noise"
    keeps_top1 = False
    hides_probabilities = True

    def __post_init__(self) -> None:
        if not 0 < self.epsilon < math.inf:
            raise UserError(f"dp_noise: epsilon {self.epsilon}; accepted: finite, above 0")

    def keeps(self, classes: int) -> float:
        """Probability that an answer names the likeliest of K classes."""
        return 1 / (1 + (classes - 1) * math.exp(-self.epsilon))

    def __call__(self, probabilities: Tensor, images: Tensor, key: bytes, account: str) -> Tensor:
        """As `Defence`; probability 1 for the class that is named."""
        classes, top = probabilities.shape[1], probabilities.argmax(1)
        if classes == 1:
            return torch.ones_like(probabilities)
        u = uniforms(images, 2, key=key, purpose="dp_noise")
        other = another_class(top, u[:, 1], classes)
        named = torch.where(u[:, 0] < self.keeps(classes), top, other)
        return F.one_hot(named, classes).double()
