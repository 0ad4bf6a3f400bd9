"""Epsilon for k units that change together, for example all records of one person.

The unit is the one for which the sensitivities of the releases were computed: a record, an answer.
k units that change together are protected less, and this module says by how much.

- Gaussian and pure releases: k steps from one world to the other move the mean by at most k times
  the sensitivity, and the loss by at most k times epsilon.
- Votes: at worst k votes leave one count for one other, so each of the `cells` counts differs by
  k. The loss distribution of the discrete Gaussian with that shift is exact for this move. Moves
  that spread the votes over more counts have a smaller L2 norm; the tests try all moves of up to
  four votes, and none reveals more.
- DP-SGD, add or remove: the k records are all removed or all added. A mixture of Gaussians
  dominates each step under Poisson sampling (Ganesh 2024, arXiv 2401.10294).
- DP-SGD, replace one: no dominating pair is known for k records, so we give a group bound, the
  better of two arguments. Both hold for every adaptive composition.
"""

import functools
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp

from dpsd.errors import UserError
from dpsd.privacy import distributions
from dpsd.privacy.accounting import compose_epsilon
from dpsd.privacy.events import DpSgdRelease, GaussianRelease, PureRelease, Relation, Release

Bound = Literal["loss distribution", "group bound"]

_RESOLVED = 1e-10  # delta below which convolutions by FFT are noise
_ALPHAS = 1 + np.geomspace(0.2, 200.0, 32)  # orders of the moments for smaller deltas
_SHARES = (0.01, 0.1, 0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 0.99)  # of delta, for the first of two steps
_WIDEST = 4000  # standard deviations of noise over which a moment is summed
_LARGEST = 1e5  # epsilon from which we say that there is no bound


@dataclass(frozen=True)
class GroupEpsilon:
    """Epsilon for k units that change together.

    Attributes:
        epsilon: at the delta that was asked for; infinite where there is no bound.
        bound: "loss distribution" where the k units have their own loss distribution or formula,
            "group bound" where the figure follows from steps between worlds and is not tight.
    """

    epsilon: float
    bound: Bound


def group_epsilon(
    releases: Iterable[tuple[Release, int]],
    k: int,
    delta: float,
    relation: Relation = "replace_one",
) -> GroupEpsilon:
    """Epsilon at which a composition is (eps, delta)-DP for k units that change together.

    Under replace-one, with DP-SGD in the composition and k above 1, the figure is the smaller of

    - k steps: D = D_0, ..., D_k = D' differ in one record each. From P_i <= e^e P_(i+1) + d follows
      P_0 <= e^(ke) P_k + d (1 + e^e + ... + e^((k-1)e)). We take the smallest such ke.
    - remove, then add: let Q be D without the k records. From P <= e^(e1) Q + d1 and
      Q <= e^(e2) R + d2 follows P <= e^(e1+e2) R + d1 + e^(e1) d2. For k records removed and k
      records added a mixture of Gaussians dominates. All other releases change in the first step.

    Args:
        releases: what is released, each with how often.
        k: units that change together, from 1; 1 is `compose_epsilon`.
        delta: in [0, 1).
        relation: of `DpSgdRelease`. For "add_or_remove_one" the k records are all added or all
            removed. All other releases hold for the relation of their sensitivity.

    Raises:
        UserError: `k` or `delta` is out of range.
    """
    if k < 1:
        raise UserError(f"k: {k}; accepted: at least 1")
    if not 0 <= delta < 1:
        raise UserError(f"delta: {delta}; accepted: from 0, below 1")
    counts: Counter[Release] = Counter()
    for release, n in releases:
        if n > 0:
            counts[release] += n
    return _group_epsilon(frozenset(counts.items()), k, delta, relation)


@functools.lru_cache(maxsize=64)
def _group_epsilon(
    items: frozenset[tuple[Release, int]], k: int, delta: float, relation: Relation
) -> GroupEpsilon:
    counts = dict(items)
    closed = all(release.closed_form for release in counts)
    if k == 1 or closed or any(release.kind == "open" for release in counts):
        scaled = [(_scaled(release, k), n) for release, n in counts.items()]
        return GroupEpsilon(compose_epsilon(scaled, delta, relation), "loss distribution")
    trained = any(isinstance(release, DpSgdRelease) for release in counts)
    if not trained or relation == "add_or_remove_one":
        found = distributions.epsilon(counts, delta, relation, k)
        return GroupEpsilon(found, "loss distribution")
    if delta == 0:
        return GroupEpsilon(math.inf, "group bound")
    return GroupEpsilon(
        min(_k_steps(counts, k, delta), _remove_then_add(counts, k, delta)), "group bound"
    )


def _scaled(release: Release, k: int) -> Release:
    if isinstance(release, GaussianRelease):
        return replace(release, sensitivity=k * release.sensitivity)
    if isinstance(release, PureRelease):
        return replace(release, epsilon=k * release.epsilon)
    return release


def _k_steps(counts: Mapping[Release, int], k: int, delta: float) -> float:
    log_delta = _log_curve(counts, "replace_one", 1)

    def log_total(epsilon: float) -> float:
        return log_delta(epsilon) + float(logsumexp(epsilon * np.arange(k)))

    return k * _crossing(log_total, math.log(delta))


def _remove_then_add(counts: Mapping[Release, int], k: int, delta: float) -> float:
    trained: dict[Release, int] = {r: n for r, n in counts.items() if isinstance(r, DpSgdRelease)}
    remove, add = _log_curve(counts, "remove", k), _log_curve(trained, "add", k)
    best = math.inf
    for share in _SHARES:
        first = _crossing(remove, math.log(share * delta))
        second = _crossing(add, math.log((1 - share) * delta) - first)
        best = min(best, first + second)
    return best


def _crossing(log_delta: Callable[[float], float], target: float) -> float:
    """An eps at which the bound is at most the target: the smallest where the bound falls."""
    low, high = 0.0, 1.0
    while log_delta(high) > target:
        low, high = high, 2 * high
        if high > _LARGEST:
            return math.inf
    while high - low > 1e-5 * high:
        middle = (low + high) / 2
        low, high = (low, middle) if log_delta(middle) <= target else (middle, high)
    return high


def _log_curve(
    counts: Mapping[Release, int], worlds: distributions.Worlds, k: int
) -> Callable[[float], float]:
    """Log of an upper bound on delta, as a function of eps.

    By distribution where delta is large enough, else by Renyi divergences (Canonne, Kamath and
    Steinke 2020, proposition 7).
    """
    moments, excess = _moments(counts, worlds, k), _ALPHAS - 1

    def log_delta(epsilon: float) -> float:
        at = excess * (moments - epsilon + np.log1p(-1 / _ALPHAS)) - np.log(_ALPHAS)
        tail = min(0.0, float(at.min()))
        if tail <= math.log(_RESOLVED):
            return tail
        composed = distributions.delta(counts, epsilon, worlds, k)
        return min(tail, math.log(max(composed, _RESOLVED)))

    return log_delta


def _moments(
    counts: Mapping[Release, int], worlds: distributions.Worlds, k: int
) -> NDArray[np.float64]:
    """Renyi divergence of the composition at each order of `_ALPHAS`: float64 [orders]."""
    total = np.zeros(len(_ALPHAS))
    for release, n in counts.items():
        if isinstance(release, DpSgdRelease):
            total += n * release.steps * _step_divergences(release, worlds, k)
        else:
            total += n * k**2 * release.rho * _ALPHAS
    return total


def _step_divergences(
    release: DpSgdRelease, worlds: distributions.Worlds, k: int
) -> NDArray[np.float64]:
    """Renyi divergences of one step of DP-SGD, by a Riemann sum: float64 [orders].

    For "replace_one" (k = 1) the two worlds are mixtures to either side of zero.
    """
    noise, rate = release.noise_multiplier, release.sample_rate
    divergences = []
    for alpha in _ALPHAS:
        if alpha * k > _WIDEST * noise:
            divergences.append(math.inf)
            continue
        x = np.arange(-15 * noise, 15 * noise + alpha * k, noise / 8)
        normal = -(x**2) / (2 * noise**2) - math.log(noise * math.sqrt(2 * math.pi))
        mixed = distributions.mixture_loss(x, noise, rate, k)
        loss, lower = mixed, normal
        if worlds == "add":
            loss, lower = -mixed, normal + mixed
        elif worlds == "replace_one":
            other = distributions.mixture_loss(-x, noise, rate, k)
            loss, lower = mixed - other, normal + other
        moment = logsumexp(alpha * loss + lower) + math.log(noise / 8)
        divergences.append(max(0.0, float(moment)) / (alpha - 1))
    return np.array(divergences)
