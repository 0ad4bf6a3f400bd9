"""What a transcript tells of which of two teachers answered: the facts of its privacy loss."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class PairLoss:
    """What a transcript tells of which of two teachers answered.

    Attributes:
        answers: in the transcript.
        differing: m, those whose distribution differs between the worlds.
        mu: of the Gaussian answers together.
        outcomes: for each kind of differing pure answer p(outcome) in either world, float64 [V]
            each, and how many answers are of this kind.
        cells: released counts that differ by one vote.
        two_cells: answers that differ in two counts (the others in one).
        sigma: of the noisy votes.
        open: an answer differs and nothing hides it.
    """

    answers: int
    differing: int
    mu: float = 0.0
    outcomes: tuple[tuple[Floats, Floats, int], ...] = ()
    cells: int = 0
    two_cells: int = 0
    sigma: float = 1.0
    open: bool = False


def outcome_ratio(p0: Floats, p1: Floats) -> Floats:
    """Log p1 / p0; 0 where an outcome cannot come out."""
    some = (p0 > 0) & (p1 > 0)
    return np.where(some, np.log(np.where(some, p1, 1.0) / np.where(some, p0, 1.0)), 0.0)


def outcomes_loss(rows: int, p0: Floats, p1: Floats) -> PairLoss:
    """The loss of answers with few outcomes; those that are equal up to order count together.

    Args:
        rows: answers in the transcript.
        p0: P(outcome) in world 0 of each answer that may differ, float64 [B, V].
        p1: in world 1.
    """
    order = np.lexsort((p0, outcome_ratio(p0, p1)), axis=1)
    p0, p1 = (np.take_along_axis(p, order, 1).round(9) for p in (p0, p1))
    kinds, counts = np.unique(np.concatenate([p0, p1], 1), axis=0, return_counts=True)
    pairs = [(*kind.reshape(2, -1), int(n)) for kind, n in zip(kinds, counts, strict=True)]
    outcomes = tuple((a, b, n) for a, b, n in pairs if not np.array_equal(a, b))
    return PairLoss(rows, sum(n for *_, n in outcomes), outcomes=outcomes)
