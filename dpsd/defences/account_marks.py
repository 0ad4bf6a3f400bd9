"""Marks of an account: a keyed share of its questions gets a wrong answer (DAWN).

Szyller et al. 2021, "DAWN: Dynamic Adversarial Watermarking of Neural Networks". A copy that
learned from an account's answers repeats the wrong ones, and so names the account. Key, account and
image decide which answers are wrong and how, so that nothing has to be stored: `is_marked` and
`mark_label` say it again of any image.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from dpsd.defences.keyed import uniforms
from dpsd.defences.top import another_class, swapped
from dpsd.errors import UserError

_PURPOSE = "account_marks"


@dataclass(frozen=True)
class AccountMarks:
    """Swaps the likeliest class with another one that the key draws, for a share of questions.

    Attributes:
        share: of an account's questions, above 0 and below 1. So much accuracy it costs.

    Example:
        >>> AccountMarks(share=0.9)(p, images, key, "alice")
        tensor([[0.1100, 0.2800, 0.6100]], dtype=torch.float64)
    """

    share: float = 0.005

    name = "account_marks"
    keeps_top1 = False
    hides_probabilities = False

    def __post_init__(self) -> None:
        if not 0 < self.share < 1:
            raise UserError(f"account_marks: share {self.share}; accepted: above 0, below 1")

    def __call__(self, probabilities: Tensor, images: Tensor, key: bytes, account: str) -> Tensor:
        """As `Defence`."""
        classes, named = probabilities.shape[1], probabilities.argmax(1)
        if classes < 2:
            return probabilities
        u = uniforms(images, 2, key=key, purpose=_PURPOSE, account=account)
        wrong = another_class(named, u[:, 1], classes)
        marked = (u[:, 0] < self.share)[:, None]
        return torch.where(marked, swapped(probabilities, named, wrong), probabilities)


def is_marked(images: Tensor, key: bytes, account: str, share: float) -> Tensor:
    """Which of an account's questions got a wrong answer: bool [B] of uint8 [B, C, H, W]."""
    return uniforms(images, 2, key=key, purpose=_PURPOSE, account=account)[:, 0] < share


def mark_label(images: Tensor, key: bytes, account: str, named: Tensor, classes: int) -> Tensor:
    """The wrong class that a marked question got.

    Args:
        images: uint8 [B, C, H, W].
        key: of the defence.
        account: who asked.
        named: int64 [B], the class that the served model names.
        classes: K, at least 2.

    Returns:
        int64 [B]. Over the key, each of the K - 1 other classes has the same probability.
    """
    u = uniforms(images, 2, key=key, purpose=_PURPOSE, account=account)
    return another_class(named, u[:, 1], classes)
