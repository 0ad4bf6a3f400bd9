"""An accuracy released with noise, for the unit record: one test row, replace-one.

A changed test row changes the number of hits by at most 1, and the accuracy by at most 1 / rows.
Nothing here charges a ledger: the caller does, before it asks for the noisy count.
"""

import math
from fractions import Fraction

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import brentq
from scipy.special import gammaln, xlog1py, xlogy

from dpsd.errors import UserError
from dpsd.privacy.noise import NoiseSource

LEAST_EPSILON = 1e-9
_XTOL = 1e-12
_MARGIN = 1e-9  # of a root, for rounding errors in sums of up to some million probabilities


def noisy_hits(hits: int, epsilon: float, noise: NoiseSource) -> int:
    """The number of test rows that a model classifies right, plus discrete Laplace noise.

    The noise has the scale 1 / epsilon, rounded up. The result is epsilon-DP (pure) for the unit
    record under replace-one, where a record is one test row and `hits` is a count over test rows.
    It may be below 0 and above the number of rows. (Ghosh, Roughgarden and Sundararajan 2012.)

    Args:
        hits: the private count.
        epsilon: per record, for this one release.
        noise: a source; an insecurely seeded one protects nothing.

    Raises:
        UserError: epsilon is too small or not finite.
    """
    return int(hits) + int(noise.discrete_laplaces((1,), noise_scale(epsilon))[0])


def accuracy_interval(
    noisy: int, rows: int, epsilon: float, confidence: float = 0.95
) -> tuple[float, float]:
    """An interval that covers a model's accuracy with at least the given confidence.

    The test rows are taken as independent draws, so that the hits are Bin(rows, p) and `noisy` is
    hits + noise. Both tails of this sum are inverted, each at (1 - confidence) / 2, as Clopper and
    Pearson (1934) do without noise. A value outside of 0 ... rows counts as the nearest of them.
    This is post-processing: it costs no epsilon of any unit.

    Args:
        noisy: from `noisy_hits`.
        rows: number of test rows, which is public.
        epsilon: per record, as given to `noisy_hits`.
        confidence: above 0 and below 1.

    Returns:
        Lower and upper bound, in 0 ... 1.

    Raises:
        UserError: rows, epsilon or confidence is out of range.
    """
    if rows < 1:
        raise UserError(f"rows: {rows}; accepted: from 1")
    if not 0 < confidence < 1:
        raise UserError(f"confidence: {confidence:g}; accepted: above 0 and below 1")
    tail, noisy = (1 - confidence) / 2, min(max(noisy, 0), rows)
    # rows - hits is Bin(rows, 1 - p) and the noise is symmetric: one bound gives the other.
    lower = _lower_bound(noisy, rows, epsilon, tail)
    return lower, 1 - _lower_bound(rows - noisy, rows, epsilon, tail)


def noise_at_least(k: ArrayLike, epsilon: float) -> NDArray[np.float64]:
    """Probability that the noise of `noisy_hits` is at least k.

    Args:
        k: integers.
        epsilon: per record.

    Returns:
        float64, in the shape of `k`.

    Raises:
        UserError: epsilon is too small or not finite.
    """
    k, rate = np.asarray(k, dtype=np.float64), -1 / noise_scale(epsilon)
    beyond = np.exp(rate * np.where(k > 0, k, 1 - k)) / (1 + math.exp(rate))
    return np.where(k > 0, beyond, 1 - beyond)


def noise_scale(epsilon: float) -> float:
    """The least float64 that is at least 1 / epsilon, so that the noise never costs more.

    Raises:
        UserError: epsilon is too small or not finite.
    """
    if not (LEAST_EPSILON <= epsilon < math.inf):
        raise UserError(f"epsilon: {epsilon:g}; accepted: finite, from {LEAST_EPSILON:g}")
    scale = 1 / epsilon
    rounded_down = Fraction(scale) * Fraction(epsilon) < 1
    return math.nextafter(scale, math.inf) if rounded_down else scale


def _lower_bound(noisy: int, rows: int, epsilon: float, tail: float) -> float:
    """The largest p for which hits + noise >= noisy has a probability of `tail` at most, or 0."""
    hits = np.arange(rows + 1)
    ways = gammaln(rows + 1) - gammaln(hits + 1) - gammaln(rows - hits + 1)
    reached = noise_at_least(noisy - hits, epsilon)

    def excess(p: float) -> float:
        mass = np.exp(ways + xlogy(hits, p) + xlog1py(rows - hits, -p))
        return float(mass @ reached) - tail

    if excess(0.0) >= 0:
        return 0.0
    return max(0.0, float(brentq(excess, 0.0, 1.0, xtol=_XTOL)) - _MARGIN)
