"""How the mean question of an account varies from account to account, and by chance.

An account's mean deviates from the honest one because accounts differ (`between`) and because it
asked finitely many questions (`within` over their number). Both are covariances over accounts, so
that a deviation is judged by how rare it is, and not by its length: honest accounts prefer some
classes, which makes long deviations in few directions.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import eigh

from dpsd.errors import UserError

Matrix = NDArray[np.float64]

LEAST = 20
"""Accounts from which variation is estimated."""
_RARE = 0.001  # share of honest accounts beyond the level
_HIGHEST = 2.0  # suspicion, as of accounts
_FLOOR = 0.02  # of the mean variance, which every direction has at least


@dataclass(frozen=True)
class Variation:
    """Covariances of accounts' mean questions, in axes in which both are diagonal.

    Attributes:
        axes: float64 [D, D]; in them a single question has variance 1.
        between: variance between accounts along each axis, float64 [D].
    """

    axes: Matrix
    between: NDArray[np.float64]

    def whiten(self, deviations: Matrix, asked: NDArray[np.int64]) -> Matrix:
        """Deviations float64 [N, D] with variance 1 along each axis for an honest account.

        Args:
            deviations: of mean questions from the honest mean, float64 [N, D].
            asked: questions of each, int64 [N], at least 1.
        """
        spread = np.sqrt(self.between + 1 / asked[:, None])
        return np.asarray(deviations @ self.axes / spread)

    def distance(self, deviations: Matrix, asked: NDArray[np.int64]) -> NDArray[np.float64]:
        """Squared Mahalanobis distances to the honest mean, float64 [N]; about D if honest."""
        return np.asarray((self.whiten(deviations, asked) ** 2).sum(1))


@dataclass(frozen=True)
class Honest:
    """What honest accounts deviate by, from accounts that are known to be honest.

    Attributes:
        variation: the covariances.
        usual: median distance of an honest account that asked much.
        level: distance that one in a thousand of these exceeds.
    """

    variation: Variation
    usual: float
    level: float

    def suspicion(self, deviation: NDArray[np.float64], asked: int) -> tuple[float, float]:
        """Of one mean question, float64 [D]: its distance, and 0 if usual, 1 at the level."""
        distance = float(self.variation.distance(deviation[None], np.array([asked]))[0])
        above = (distance - self.usual) / max(self.level - self.usual, 1e-9)
        return distance, float(np.clip(above, 0, _HIGHEST))


def fit_honest(deviations: Matrix, asked: NDArray[np.int64]) -> Honest:
    """The variation of one half of honest accounts, and the distances of the other half.

    Args:
        deviations: of mean questions from the honest mean, float64 [N, D], in random order.
        asked: questions of each, int64 [N], at least 1.

    Raises:
        UserError: fewer than 40 accounts.
    """
    if len(asked) < 2 * LEAST:
        raise UserError(f"accounts: {len(asked)}; accepted: at least {2 * LEAST} to compare them")
    variation = fit_variation(deviations[::2], asked[::2])
    rest, count = deviations[1::2], asked[1::2]
    much = count >= np.median(count)
    distances = variation.distance(rest[much], count[much])
    level = float(np.quantile(distances, 1 - _RARE, method="higher"))
    return Honest(variation, float(np.median(distances)), level)


def fit_variation(deviations: Matrix, asked: NDArray[np.int64]) -> Variation:
    """Estimate both covariances from accounts, most of which must be honest.

    The outer product of a deviation has mean `between + within / asked`: a weighted regression on
    1 / asked tells the two apart. Where all accounts asked equally many, half is given to each.

    Args:
        deviations: of mean questions from the honest mean, float64 [N, D].
        asked: questions of each, int64 [N], at least 1.

    Raises:
        UserError: fewer than 20 accounts.
    """
    n, width = deviations.shape
    if n < LEAST:
        raise UserError(f"accounts: {n}; accepted: at least {LEAST} to compare them")
    x = 1 / asked
    weight = 1 / (x + np.median(x)) ** 2
    weight /= weight.sum()
    first, second = (_gram(deviations, weight * p) for p in (np.ones(n), x))
    s1, s2 = (weight * x).sum(), (weight * x * x).sum()
    spread = s2 - s1 * s1
    if spread > 1e-3 * s2:
        between = (s2 * first - s1 * second) / spread
        within = (second - s1 * first) / spread
    else:
        between, within = first / 2, first / (2 * s1)
    total = float(np.trace(first)) / width
    within = _positive(within, _FLOOR * total / s1)
    few = min(1.0, width / (5 * n))  # with few accounts directions are not known
    between = _positive((1 - few) * between + few * total * np.eye(width), _FLOOR * total)
    values, axes = eigh(between, within)
    return Variation(axes, np.maximum(values, 0))


def _gram(rows: Matrix, weights: NDArray[np.float64]) -> Matrix:
    return np.asarray((rows * weights[:, None]).T @ rows)


def _positive(matrix: Matrix, least: float) -> Matrix:
    """The nearest symmetric matrix whose eigenvalues are at least `least`."""
    values, vectors = np.linalg.eigh((matrix + matrix.T) / 2)
    return np.asarray((vectors * np.maximum(values, max(least, 1e-12))) @ vectors.T)
