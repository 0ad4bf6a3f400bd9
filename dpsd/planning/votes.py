"""How often noisy votes name the right class, and the best numbers of teachers and answers.

All is arithmetic on declared figures of public benchmarks. Nothing here reads data or a user's
teachers.
"""

import math
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import yaml
from scipy.special import ndtr

from dpsd.privacy.accounting import gaussian_mu

SHARDS = (10, 25, 50, 100, 250, 500, 1000, 2000, 3000, 4000, 6000, 8000)
"""Numbers of teachers that `search` tries."""
ANSWERS = tuple(2**i for i in range(6, 18))
"""Numbers of answers that `search` tries: 64 to 131,072."""
WORTH = 0.005
"""Doubling the answers must raise the student's expected accuracy by more than this."""
SHORTFALL = 2.0
"""A student stays behind its teachers' votes by this over the root of the effective answers.

A rough rule, read off a prototype on MNIST (1,000 teachers, strokes): 87.3 % of 96.0 % with 4,096
answers at epsilon 1 for one record, 91.6 % with 2,048 at epsilon 2. The rule only ranks plans.
"""
STAND_IN_CLASSES = 10
"""Number of classes of the benchmarks in shard_figures.yaml."""
VOTE_SHARES = (0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)

_Z = np.linspace(-8.0, 8.0, 801)
_WEIGHT = np.exp(-(_Z**2) / 2) / np.exp(-(_Z**2) / 2).sum()


@dataclass(frozen=True)
class ShardFigures:
    """Assumed figures of teachers with so many records each."""

    rows_per_class: float
    """Records of a teacher divided by the number of classes."""
    right: float
    """Rate of real images on which most teachers name the true class."""
    first: tuple[float, ...]
    """Vote share of the class that leads, in ten groups of synthetic images."""
    second: tuple[float, ...]
    """Vote share of the class in second place, in the same groups."""


@cache
def stand_ins() -> dict[str, tuple[ShardFigures, ...]]:
    """Figures of public benchmarks by name, each in order of increasing shard size."""
    tree = yaml.safe_load((Path(__file__).parent / "shard_figures.yaml").read_text())
    return {
        name: tuple(
            ShardFigures(
                row["rows_per_class"], row["right"], tuple(row["first"]), tuple(row["second"])
            )
            for row in rows
        )
        for name, rows in tree.items()
    }


@dataclass(frozen=True)
class Choice:
    """A number of teachers, a number of answers, and the figures expected of them."""

    shards: int
    rows_per_teacher: float
    answers: int
    sigma: float
    """Sigma of the noise in each count, in votes."""
    correct: float
    """Expected rate of answers whose largest noisy count is the class that most teachers name."""
    right: float
    """Expected rate of real images on which most teachers name the true class."""
    effective: float
    """Number of correct answers that would be worth as much: see `effective_answers`."""

    @property
    def student(self) -> float:
        """Expected accuracy of a student, very roughly: it only ranks, and may be below 0."""
        return self.right - SHORTFALL / math.sqrt(max(self.effective, 1e-9))


def correct_rate(first: float, second: float, voters: int, sigma: float, classes: int) -> float:
    """P(the largest noisy count is the plurality's), numerically.

    The plurality has the share `first` of the votes, one rival `second`, and the other classes
    share the rest evenly: P = E_z [Phi(z + g2) Phi(z + g3)^(K-2)]. Here z is the noise of the
    plurality's count and g are the gaps to the others, both in units of sigma. The discrete
    Gaussian is taken as continuous. That is exact enough for sigma from 2 votes.

    Args:
        first: vote share of the plurality, in [1 / classes, 1].
        second: vote share of the rival, up to `first` and `1 - first`.
        voters: n.
        sigma: of the noise in each count, in votes.
        classes: K, from 2.
    """
    rival = ndtr(_Z + voters * (first - second) / sigma)
    if classes == 2:
        return float(_WEIGHT @ rival)
    rest = (1 - first - second) / (classes - 2)
    others = ndtr(_Z + voters * (first - rest) / sigma) ** (classes - 2)
    return float(_WEIGHT @ (rival * others))


def expected_correct(figures: ShardFigures, voters: int, sigma: float, classes: int) -> float:
    """Mean of `correct_rate` over synthetic images, by deciles of how decided the votes are."""
    pairs = zip(figures.first, figures.second, strict=True)
    rates = [correct_rate(*_for_classes(f, s, classes), voters, sigma, classes) for f, s in pairs]
    return sum(rates) / len(rates)


def effective_answers(answers: int, correct: float, classes: int) -> float:
    """N ((K p - 1) / (K - 1))^2, where p is the rate of answers that name the plurality's class.

    Labels that are wrong at random, evenly over the classes, cost a learner the inverse of this
    factor in examples (Aslam and Decatur 1996; Natarajan et al. 2013, in the binary case).
    """
    return answers * max(0.0, (classes * correct - 1) / (classes - 1)) ** 2


def figures_at(table: tuple[ShardFigures, ...], rows_per_class: float) -> ShardFigures:
    """Figures interpolated in the logarithm of the shard's size; beyond the table its end rows."""
    at = math.log(rows_per_class)
    sizes = [math.log(row.rows_per_class) for row in table]

    def between(values: list[float]) -> float:
        return float(np.interp(at, sizes, values))

    def columns(rows: list[tuple[float, ...]]) -> tuple[float, ...]:
        return tuple(between(list(column)) for column in zip(*rows, strict=True))

    return ShardFigures(
        rows_per_class,
        between([row.right for row in table]),
        columns([row.first for row in table]),
        columns([row.second for row in table]),
    )


def search(
    table: tuple[ShardFigures, ...],
    *,
    rows: int,
    most: int,
    classes: int,
    epsilon: float,
    delta: float,
    also: int | None = None,
) -> list[Choice]:
    """The best number of answers for each number of teachers; noise by the closed form.

    The answers are doubled as long as that is worth it (`WORTH`). Then noise eats what they bring.

    Args:
        table: figures of a stand-in, in order of increasing shard size.
        rows: training records, public.
        most: largest number of teachers: the number of records, or of users on the roster.
        classes: K.
        epsilon: for one record or user, all answers together.
        delta: likewise.
        also: a number of teachers to try besides `SHARDS`.

    Returns:
        Choices by increasing number of teachers; empty if the data are too few for any.
    """
    mu = gaussian_mu(epsilon, delta)
    choices = []
    for n in sorted({*SHARDS, *([] if also is None else [also])}):
        per_class = rows / n / classes
        if n > most or per_class < table[0].rows_per_class * 0.999:
            continue
        figures = figures_at(table, per_class)
        tried = [at_answers(figures, n, rows, N, classes, mu) for N in ANSWERS]
        best = 0
        while best + 1 < len(tried) and tried[best + 1].student > WORTH + tried[best].student:
            best += 1
        choices.append(tried[best])
    return choices


def at_answers(
    figures: ShardFigures, n: int, rows: int, answers: int, classes: int, mu: float
) -> Choice:
    """The figures expected of n teachers and so many answers; mu (Gaussian DP) is the total."""
    sigma = math.sqrt(2 * answers) / mu
    correct = expected_correct(figures, n, sigma, classes)
    worth = effective_answers(answers, correct, classes)
    return Choice(n, rows / n, answers, sigma, correct, figures.right, worth)


def best_choice(choices: list[Choice]) -> Choice:
    """The choice with the highest expected accuracy of the student."""
    return max(choices, key=lambda c: c.student)


def share_rows(voters: int, sigma: float, classes: int) -> list[dict[str, float]]:
    """Gaps of votes against noise at assumed vote shares, the rest even or half to one rival.

    `deviations` is the gap in standard deviations of a difference of two noisy counts.
    """
    rows = []
    for share in VOTE_SHARES:
        row = {"share": share}
        for name, part in (("even", 1 / (classes - 1)), ("rival", 0.5)):
            second = min((1 - share) * max(part, 1 / (classes - 1)), share)
            gap = voters * (share - second)
            row |= {
                f"gap_{name}": gap,
                f"deviations_{name}": gap / (math.sqrt(2) * sigma),
                f"correct_{name}": correct_rate(share, second, voters, sigma, classes),
            }
        rows.append(row)
    return rows


def _for_classes(first: float, second: float, classes: int) -> tuple[float, float]:
    """A stand-in's shares as shares among K classes, with the same excess over uniform."""
    uniform = 1 / STAND_IN_CLASSES

    def scaled(share: float) -> float:
        return 1 / classes + (share - uniform) / (1 - uniform) * (1 - 1 / classes)

    lead = min(1.0, max(1 / classes, scaled(first)))
    low, high = (1 - lead) / (classes - 1), min(lead, 1 - lead)
    return lead, min(max(scaled(second), low), max(low, high))
