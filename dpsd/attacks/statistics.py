"""Intervals that several attacks report: of a binomial's rate, of the area under a ROC."""

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import betainccinv, betaincinv, expit
from scipy.stats import norm, rankdata

from dpsd.errors import UserError

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]

LEVEL = 0.95
"""Confidence of an interval where none is named."""


def clopper_pearson(hits: ArrayLike, n: ArrayLike, alpha: float) -> tuple[Floats, Floats]:
    """Lower and upper bound of a binomial's rate, each wrong with probability at most alpha.

    Clopper and Pearson 1934 (Biometrika 26). An interval at confidence 1 - a takes alpha = a / 2.
    """
    k, n = np.broadcast_arrays(np.asarray(hits, np.float64), np.asarray(n, np.float64))
    some, others = k > 0, k < n
    low, high = np.zeros(k.shape), np.ones(k.shape)
    low[some] = betaincinv(k[some], n[some] - k[some] + 1, alpha)
    high[others] = betainccinv(k[others] + 1, n[others] - k[others], alpha)
    return low, high


def wilson(hits: int, n: int, level: float = LEVEL) -> tuple[float, float]:
    """The interval of a binomial's rate by the score test (Wilson 1927, JASA 22).

    Args:
        hits: of n trials.
        n: at least 1.
        level: confidence.
    """
    z = float(norm.ppf((1 + level) / 2))
    rate, scale = hits / n, 1 + z * z / n
    centre = (rate + z * z / (2 * n)) / scale
    reach = z * math.sqrt(rate * (1 - rate) / n + z * z / (4 * n * n)) / scale
    return max(0.0, min(rate, centre - reach)), min(1.0, max(rate, centre + reach))


def auc(scores: Floats, member: Mask, level: float = LEVEL) -> tuple[float, float, float]:
    """Area under the ROC curve and its interval (DeLong et al. 1988, on the logit scale).

    Raises:
        UserError: no member or no non-member.
    """
    inside, outside = scores[member], scores[~member]
    m, n = len(inside), len(outside)
    if not m or not n:
        raise UserError(f"scores: {m} members and {n} non-members; accepted: at least 1 of each")
    ranks = rankdata(np.concatenate([inside, outside]))
    own_in, own_out = rankdata(inside), rankdata(outside)
    wins_in = (ranks[:m] - own_in) / n  # of each member over all non-members
    wins_out = 1 - (ranks[m:] - own_out) / m
    area = float(wins_in.mean())
    variance = sum(
        float(w.var(ddof=1)) / len(w) if len(w) > 1 else 0.25 for w in (wins_in, wins_out)
    )
    # Complete separation shows no variance; then half a pair the wrong way round stands for it.
    error = max(math.sqrt(variance), 0.5 / (m * n))
    inner = min(max(area, 0.5 / (m * n)), 1 - 0.5 / (m * n))
    centre = math.log(inner / (1 - inner))
    reach = float(norm.ppf((1 + level) / 2)) * error / (inner * (1 - inner))
    low, high = (float(expit(centre + sign * reach)) for sign in (-1, 1))
    return area, min(low, area), max(high, area)
