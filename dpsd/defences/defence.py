"""What every defence on answers promises, and how several are put together."""

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Protocol

from torch import Tensor

from dpsd.errors import UserError

ORDER = (
    "dp_noise", "honey", "inconsistency", "account_marks", "cosine", "noise", "rounding", "top_k",
    "labels",
)  # fmt: skip
"""Defences that choose what is said come first, those that hide digits of it last."""


class Defence(Protocol):
    """A change of answers that depends on the question, a secret key and the account alone.

    The same question of the same account has the same answer, so that asking again tells nothing,
    and a batch is answered as its images one by one.
    """

    @property
    def name(self) -> str:
        """One of `ORDER`."""

    @property
    def keeps_top1(self) -> bool:
        """Whether the likeliest class stays the likeliest, always."""

    @property
    def hides_probabilities(self) -> bool:
        """Whether answers name a class and no more."""

    def __call__(self, probabilities: Tensor, images: Tensor, key: bytes, account: str) -> Tensor:
        """The answers in place of these probabilities.

        Args:
            probabilities: float64 [B, K], rows sum to 1.
            images: uint8 [B, C, H, W], the questions.
            key: the secret of whoever serves the model, at least 16 bytes.
            account: who asks.

        Returns:
            float64 [B, K], from 0 to 1. Rows sum to 1, but to at most 1 for `top_k`, and to 1 up to
            K units for `rounding`.
        """


def in_order(defences: Iterable[Defence]) -> tuple[Defence, ...]:
    """The defences as they are applied, by `ORDER`.

    Raises:
        UserError: one of them twice.
    """
    chosen = sorted(defences, key=lambda d: ORDER.index(d.name))
    for one, other in pairwise(chosen):
        if one.name == other.name:
            raise UserError(f"defence: {one.name} twice; accepted: each once")
    return tuple(chosen)


def answered(
    probabilities: Tensor, images: Tensor, defences: Sequence[Defence], key: bytes, account: str
) -> Tensor:
    """The answers of all defences, one after the other; arguments as for one `Defence`."""
    answers = probabilities.double()
    for defence in in_order(defences):
        answers = defence(answers, images, key, account)
    return answers
