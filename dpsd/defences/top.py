"""What several defences share about the likeliest class."""

import torch
from torch import Tensor


def keep_top(before: Tensor, after: Tensor) -> Tensor:
    """The changed rows, or the row as it was where another class has become the likeliest.

    Args:
        before: float64 [B, K].
        after: float64 [B, K].
    """
    kept = before.argmax(1, keepdim=True) == after.argmax(1, keepdim=True)
    return torch.where(kept, after, before)


def likeliest(probabilities: Tensor, k: int) -> Tensor:
    """The `k` likeliest classes, or all; ties go to the lower class: int64 [B, k]."""
    return probabilities.argsort(dim=1, descending=True, stable=True)[:, :k]


def swapped(probabilities: Tensor, one: Tensor, other: Tensor) -> Tensor:
    """Rows with the probabilities of two classes in each other's place.

    Args:
        probabilities: float64 [B, K].
        one: int64 [B].
        other: int64 [B].
    """
    both = torch.stack([one, other], 1)
    return probabilities.scatter(1, both, probabilities.gather(1, both.flip(1)))


def another_class(named: Tensor, uniform: Tensor, classes: int) -> Tensor:
    """A class other than the named one, each of the K - 1 with the same probability.

    Args:
        named: int64 [B].
        uniform: float64 [B], from 0 to below 1.
        classes: K, at least 2.

    Returns:
        int64 [B].
    """
    step = 1 + (uniform * (classes - 1)).long().clamp(max=classes - 2)
    return (named + step) % classes
