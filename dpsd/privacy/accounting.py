"""Epsilon and delta of releases: exact for Gaussian and pure ones and mixes, bounds for others.

Every function is about one pair of neighbouring worlds. The caller chooses the *unit* (answer,
record, ...). The unit decides how many releases differ between the two worlds.

Sources: Balle and Wang 2018 (arXiv 1805.06530, theorem 8) and Dong, Roth and Su 2022 (JRSS-B 84,
Gaussian DP) for the Gaussian; Kairouz, Oh and Viswanath 2017 (IEEE Trans. Inf. Theory 63) for the
optimal composition of pure epsilon. Where votes or DP-SGD take part, privacy-loss distributions are
composed instead (`dpsd.privacy.distributions`).
"""

import functools
import math
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.signal import fftconvolve
from scipy.special import expit, log_ndtr
from scipy.stats import binom

from dpsd.privacy import distributions
from dpsd.privacy.events import (
    PureRelease,
    Relation,
    Release,
    VotesRelease,
    total_mu,
)

_GRID = 2**18  # cells for the loss of several pure mechanisms of different epsilon
_TAIL = 1e-30  # probability cut off a binomial's end; added to delta

_Combined = tuple[float, NDArray[np.floating[Any]], NDArray[np.floating[Any]], float]


def gaussian_delta(epsilon: float, mu: float) -> float:
    """delta(eps) of a mu-GDP mechanism: Phi(-eps/mu + mu/2) - e^eps Phi(-eps/mu - mu/2)."""
    if mu == 0:
        return max(0.0, -math.expm1(epsilon))
    first = float(log_ndtr(-epsilon / mu + mu / 2))
    second = epsilon + float(log_ndtr(-epsilon / mu - mu / 2))
    if second >= first:
        return 0.0
    return math.exp(first) * -math.expm1(second - first)


def gaussian_epsilon(mu: float, delta: float) -> float:
    """The smallest eps >= 0 at which a mu-GDP mechanism is (eps, delta)-DP."""
    return _invert(lambda eps: gaussian_delta(eps, mu), delta, start=mu * mu / 2 + mu)


def gaussian_mu(epsilon: float, delta: float) -> float:
    """The largest mu whose mu-GDP mechanism is (eps, delta)-DP, rounded to less privacy loss."""
    low, high = 1e-12, 1.0
    while gaussian_delta(epsilon, high) < delta:
        high *= 2
    mu = brentq(lambda m: gaussian_delta(epsilon, m) - delta, low, high, xtol=1e-15, rtol=8.9e-16)
    return float(mu) * (1 - 1e-12)


def compose_delta(
    epsilon: float, releases: Iterable[tuple[Release, int]], relation: Relation = "replace_one"
) -> float:
    """delta(eps) of the composition of releases, each with its count.

    Gaussians add as mu squared. Binary randomised response dominates pure mechanisms. Its
    composed loss is eps (2 Bin(n, e^eps / (1 + e^eps)) - n). Losses of different epsilons are
    rounded up to a grid and added there. Then delta(eps) = E_loss[delta_gauss(eps - loss)].

    Args:
        epsilon: from 0.
        releases: what is released, each with how often.
        relation: read by `DpSgdRelease`, whose guarantee depends on it. All others hold for the
            relation for which their sensitivity was computed.
    """
    counts = _count(releases)
    if _needs_distributions(counts):
        return distributions.delta(counts, epsilon, relation)
    return _delta_at(epsilon, _combine(counts.items()))


def delta_curve(
    releases: Iterable[tuple[Release, int]], relation: Relation = "replace_one"
) -> Callable[[float], float]:
    """`compose_delta` as a function of epsilon, for many epsilons of one composition.

    Args:
        releases: what is released, each with how often.
        relation: as in `compose_delta`.
    """
    counts = _count(releases)
    if _needs_distributions(counts):
        return lambda epsilon: distributions.delta(counts, epsilon, relation)
    combined = _combine(counts.items())
    return lambda epsilon: _delta_at(epsilon, combined)


def compose_epsilon(
    releases: Iterable[tuple[Release, int]], delta: float, relation: Relation = "replace_one"
) -> float:
    """The smallest eps >= 0 at which the composition of releases is (eps, delta)-DP.

    Args:
        releases: what is released, each with how often.
        delta: in [0, 1). Zero gives the sum of the pure epsilons.
        relation: as in `compose_delta`.
    """
    counts = _count(releases)
    if any(r.kind == "open" for r in counts):
        return math.inf
    if _needs_distributions(counts):
        return distributions.epsilon(counts, delta, relation)
    pure = {r: n for r, n in counts.items() if isinstance(r, PureRelease)}
    ceiling = sum(r.epsilon * n for r, n in pure.items())
    if len(pure) == len(counts) and (delta == 0 or sum(counts.values()) == 1):
        return ceiling
    if delta == 0:
        return math.inf
    if not pure:
        return gaussian_epsilon(total_mu(counts.items()), delta)
    combined = _combine(counts.items())
    mu, slack = combined[0], combined[3]
    bound = ceiling + (gaussian_epsilon(mu, delta) if mu > 0 else 0.0)  # basic composition
    if delta <= slack:  # below what the grid resolves
        return bound
    epsilon = _invert(lambda eps: _delta_at(eps, combined), delta, start=ceiling / 2 + 1)
    return min(epsilon, bound)


def _needs_distributions(counts: Counter[Release]) -> bool:
    open_too = any(r.kind == "open" for r in counts)
    return not open_too and not all(r.closed_form for r in counts)


def _count(releases: Iterable[tuple[Release, int]]) -> Counter[Release]:
    counts: Counter[Release] = Counter()
    for release, n in releases:
        if n > 0:
            counts[release] += n
    return counts


def _delta_at(epsilon: float, combined: _Combined) -> float:
    mu, losses, masses, slack = combined
    if math.isinf(mu):
        return 1.0
    if len(losses) == 1 and losses[0] == 0.0:
        return gaussian_delta(epsilon, mu)
    rest = epsilon - losses
    if mu == 0:
        deltas = np.maximum(0.0, -np.expm1(np.minimum(rest, 0.0)))
    else:
        first = log_ndtr(-rest / mu + mu / 2)
        second = np.minimum(rest + log_ndtr(-rest / mu - mu / 2), first)
        deltas = np.exp(first) * -np.expm1(second - first)
    return min(1.0, float(masses @ deltas) + slack)


def _combine(releases: Iterable[tuple[Release, int]]) -> _Combined:
    """Mu of the Gaussians; losses, masses and truncated mass of the pure mechanisms."""
    counts = _count(releases)
    if any(r.kind == "open" for r in counts):
        return math.inf, np.zeros(1), np.ones(1), 0.0
    mu = total_mu(counts.items())
    groups = [(r.epsilon, n) for r, n in counts.items() if isinstance(r, PureRelease)]
    if not groups:
        return mu, np.zeros(1), np.ones(1), 0.0
    parts = [_binary_losses(eps, n) for eps, n in groups]
    slack = _TAIL * len(groups)
    if len(parts) == 1:
        return mu, *parts[0], slack
    spacing = sum(float(losses[-1] - losses[0]) for losses, _ in parts) / _GRID
    offset, mass = 0.0, np.ones(1)
    for losses, masses in parts:
        cells = np.ceil((losses - losses[0]) / spacing).astype(np.int64)
        mass = np.clip(fftconvolve(mass, np.bincount(cells, weights=masses)), 0.0, None)
        offset += float(losses[0])
    return mu, offset + spacing * np.arange(len(mass)), mass, slack + 1e-15 * len(groups)


def _binary_losses(
    epsilon: float, n: int
) -> tuple[NDArray[np.floating[Any]], NDArray[np.floating[Any]]]:
    keep = float(expit(epsilon))
    low, high = binom.ppf(_TAIL, n, keep), binom.isf(_TAIL, n, keep)
    kept = np.arange(max(0, int(low) - 1), min(n, int(high) + 1) + 1)
    return epsilon * (2.0 * kept - n), binom.pmf(kept, n, keep)


def _invert(delta_of: Callable[[float], float], delta: float, start: float) -> float:
    if delta_of(0.0) <= delta:
        return 0.0
    high = max(start, 1e-6)
    while delta_of(high) > delta:
        high *= 2
    root = brentq(lambda eps: delta_of(eps) - delta, 0.0, high, xtol=1e-13 * max(1, high))
    return float(root)


@functools.lru_cache(maxsize=256)
def calibrate_votes(
    epsilon: float, delta: float, answers: int, labels_share: float = 0.0
) -> tuple[float, float | None]:
    """The noise of vote histograms, and of one label histogram, that together cost (eps, delta).

    Args:
        epsilon: of the unit that moves one vote of each histogram; all releases compose.
        delta: in (0, 1).
        answers: vote histograms released at most.
        labels_share: of the budget (in zCDP) that a label histogram takes, in [0, 1); 0: none.

    Returns:
        sigma of the vote histograms and sigma of the label histogram or None, rounded to less
        privacy loss.
    """

    def sigmas(mu: float) -> tuple[float, float | None]:
        labels = math.sqrt(2 / labels_share) / mu if labels_share else None
        return math.sqrt(2 * answers / (1 - labels_share)) / mu, labels

    def excess(log_mu: float) -> float:
        sigma, labels = sigmas(math.exp(log_mu))
        counts: Counter[Release] = Counter({VotesRelease(sigma): answers})
        if labels is not None:
            counts[VotesRelease(labels)] += 1
        return distributions.epsilon(counts, delta, "replace_one") - epsilon

    start = math.log(gaussian_mu(epsilon, delta))  # exact except for the grid and for small sigma
    low, high = start - 0.02, start + 0.02
    while excess(low) > 0:
        low -= 4 * (high - low)
    while excess(high) < 0:
        high += high - low
    root = float(brentq(excess, low, high, xtol=2e-5))
    while excess(root) > 0:
        root -= 2e-5
    return sigmas(math.exp(root))
