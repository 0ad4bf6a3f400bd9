"""Upper bounds for what has no closed form (votes and DP-SGD), by privacy-loss distributions.

dp-accounting composes the distributions. The discrete Gaussian is discretised by connecting the
dots (Doroshenko et al. 2022, arXiv 2207.04380), because dp-accounting's default, privacy buckets,
is far from tight under composition. Where a zero-concentrated bound is known (Canonne, Kamath and
Steinke 2020, arXiv 2004.00010, proposition 12), it caps epsilon.

`k` is how many units change together, for example all records of one person (see
`dpsd.privacy.groups`). Every figure is about the unit for which the sensitivities of the releases
were computed; k is 1 unless a caller says otherwise.
"""

import functools
import math
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import log_ndtr, logsumexp, ndtr
from scipy.stats import binom

from dpsd.privacy.events import (
    DpSgdRelease,
    GaussianRelease,
    PureRelease,
    Relation,
    Release,
    VotesRelease,
    total_mu,
)

Worlds = Relation | Literal["remove", "add"]  # the last two: one direction of DP-SGD alone

_INTERVAL = 1e-4  # of the discretised loss at most, while the composed loss stays near 100
_WIDENED = 1e-3  # variance that discretising may add to the composed loss, as a share
_CELLS = 10**6  # of a composed loss, and of a step of DP-SGD with k > 1; about, at most
_SGD_FINEST = 2e-5  # interval below which DP-SGD takes many seconds to discretise
_REACH = 20.0  # standard deviations of a DP-SGD step's noise; beyond lies 1e-88 of it
_LARGEST = 5000.0  # expected loss above which we give the zero-concentrated bound alone
_WIDEST = 1e5  # the same for a sigma, in votes


def delta(counts: Mapping[Release, int], epsilon: float, relation: Worlds, k: int = 1) -> float:
    """An upper bound on a composition's delta at epsilon.

    Args:
        counts: what is released, each with how often.
        epsilon: from 0.
        relation: of `DpSgdRelease`.
        k: units that change together.
    """
    if _unwieldy(counts, k):
        return zcdp_delta(_rho(counts, k), epsilon)
    composed = _distribution(frozenset(counts.items()), relation, k)
    return float(composed.get_delta_for_epsilon(epsilon))


def epsilon(counts: Mapping[Release, int], delta: float, relation: Worlds, k: int = 1) -> float:
    """The smallest known eps at which a composition is (eps, delta)-DP.

    Args:
        counts: what is released, each with how often.
        delta: in [0, 1).
        relation: of `DpSgdRelease`.
        k: units that change together.
    """
    if delta == 0:
        return math.inf
    bound = zcdp_epsilon(_rho(counts, k), delta)
    if _unwieldy(counts, k):
        return bound
    composed = _distribution(frozenset(counts.items()), relation, k)
    return min(bound, float(composed.get_epsilon_for_delta(delta)))


def zcdp_epsilon(rho: float, delta: float) -> float:
    """An eps at which every rho-zCDP mechanism is (eps, delta)-DP (proposition 12)."""
    if rho == 0 or math.isinf(rho):
        return rho

    def at(log_excess: float) -> float:
        excess = math.exp(log_excess)  # alpha - 1
        alpha = 1 + excess
        return rho * alpha + math.log1p(-1 / alpha) - (math.log(delta) + math.log(alpha)) / excess

    best = 0.5 * math.log(-math.log(delta) / rho)
    found = minimize_scalar(at, bounds=(best - 8, best + 8), method="bounded")
    return max(0.0, float(found.fun))


def zcdp_delta(rho: float, epsilon: float) -> float:
    """A delta at which every rho-zCDP mechanism is (eps, delta)-DP (proposition 12)."""
    if math.isinf(rho):
        return 1.0

    def at(log_excess: float) -> float:
        excess = math.exp(log_excess)
        alpha = 1 + excess
        return excess * (alpha * rho - epsilon + math.log1p(-1 / alpha)) - math.log(alpha)

    found = minimize_scalar(at, bounds=(-20.0, 20.0), method="bounded")
    return min(1.0, math.exp(float(found.fun)))


def _rho(counts: Mapping[Release, int], k: int) -> float:
    """Zero-concentrated DP for k units; infinite where DP-SGD takes part.

    It grows with k squared (Bun and Steinke 2016, proposition 1.9).
    """
    return k**2 * sum(n * release.rho for release, n in counts.items())


def _unwieldy(counts: Mapping[Release, int], k: int) -> bool:
    """Whether distributions would take minutes or gigabytes."""
    wide = any(isinstance(r, VotesRelease) and r.sigma > _WIDEST for r in counts)
    return wide or _expected_loss(counts, k) > _LARGEST


def _expected_loss(counts: Mapping[Release, int], k: int) -> float:
    """About how far the composed loss reaches, DP-SGD aside."""
    rho = _rho({r: n for r, n in counts.items() if not isinstance(r, DpSgdRelease)}, k)
    return rho + 10 * math.sqrt(2 * rho)


def _interval(counts: Mapping[Release, int], k: int) -> float:
    """The interval of the discretised loss.

    Connecting the dots adds about interval^2 / 6 to the variance of each loss. Many small losses
    need a finer interval than a few large ones.
    """
    losses, variance, widest = 0, 0.0, 0.0
    for release, n in counts.items():
        if isinstance(release, DpSgdRelease):
            losses += n * release.steps
            step = release.sample_rate**2 * math.expm1(min(release.noise_multiplier**-2, 50.0))
            variance += n * release.steps * step * k**2
            noise = release.noise_multiplier
            widest = max(widest, k * (k + 2 * _REACH * noise) / (2 * noise**2))
        else:
            losses += n * getattr(release, "cells", 1)
            variance += 2 * n * release.rho * k**2
    reach = _expected_loss(counts, k)
    coarsest = _INTERVAL * max(1.0 if k == 1 else 4.0 * k, reach / 100)
    finest = max(reach / _CELLS, _SGD_FINEST if widest else 0.0)
    if k > 1 and widest / _CELLS > coarsest:
        return widest / _CELLS
    return min(coarsest, max(finest, math.sqrt(6 * _WIDENED * variance / losses)))


@functools.lru_cache(maxsize=64)
def _distribution(counts: frozenset[tuple[Release, int]], relation: Worlds, k: int) -> Any:
    from dp_accounting.pld import privacy_loss_distribution as pld

    interval = _interval(dict(counts), k)
    parts = [_part(release, n, interval, relation, k) for release, n in counts
             if not isinstance(release, GaussianRelease)]  # fmt: skip
    if (mu := k * total_mu(counts)) > 0:
        parts.append(pld.from_gaussian_mechanism(1 / mu, value_discretization_interval=interval))
    return functools.reduce(lambda a, b: a.compose(b), parts)


def _part(release: Release, n: int, interval: float, relation: Worlds, k: int) -> Any:
    from dp_accounting.pld import common
    from dp_accounting.pld import privacy_loss_distribution as pld
    from dp_accounting.privacy_accountant import NeighboringRelation

    if isinstance(release, VotesRelease):
        one = pld.from_discrete_gaussian_mechanism(
            release.sigma, sensitivity=k, value_discretization_interval=interval,
            use_connect_dots=True,
        )  # fmt: skip
        return _repeated(one, release.cells * n)
    if isinstance(release, DpSgdRelease):
        if relation in ("remove", "add") or k > 1:
            one = _group_step(release.noise_multiplier, release.sample_rate, k, interval, relation)
        else:
            one = pld.from_gaussian_mechanism(
                release.noise_multiplier, value_discretization_interval=interval,
                sampling_prob=release.sample_rate,
                neighboring_relation=NeighboringRelation[relation.upper()],
            )  # fmt: skip
        return one.self_compose(release.steps * n)
    assert isinstance(release, PureRelease)
    binary = common.DifferentialPrivacyParameters(k * release.epsilon, 0)
    one = pld.from_privacy_parameters(binary, value_discretization_interval=interval)
    return _repeated(one, n)


def _repeated(one: Any, n: int) -> Any:
    """A distribution of few points, composed n times with itself.

    dp-accounting computes points^n in whole numbers first. This takes seconds where n is about a
    million. Two stages avoid it. The first cuts no tail, for what it cut would count n / 64 times.
    """
    if n < 10**5:
        return one.self_compose(n)
    whole = one.self_compose(64, tail_mass_truncation=0).self_compose(n // 64)
    return whole.compose(one.self_compose(n % 64)) if n % 64 else whole


def _group_step(noise: float, rate: float, k: int, interval: float, relation: Worlds) -> Any:
    """One step of DP-SGD of which k records are all removed or all added.

    The pair is a mixture of Gaussians with Binomial(k, rate) means against one Gaussian. For
    Poisson sampling it dominates every pair of k records (Ganesh 2024, arXiv 2401.10294). It is
    dp-accounting's `from_mixture_gaussian_mechanism`, vectorised: theirs takes 50 s for k = 10.
    """
    from dp_accounting.pld import pld_pmf
    from dp_accounting.pld import privacy_loss_distribution as pld

    assert relation != "replace_one"
    pmfs = {}
    for direction in ("remove", "add"):
        if relation in (direction, "add_or_remove_one"):
            low, high, curve = _step_curve(noise, rate, k, interval, direction)
            pmfs[direction] = pld_pmf.create_pmf_pessimistic_connect_dots_fixed_gap(
                interval, low, high, curve
            )
    return pld.PrivacyLossDistribution(*pmfs.values())


def _step_curve(
    noise: float, rate: float, k: int, interval: float, direction: str
) -> tuple[int, int, NDArray[np.float64]]:
    """The first and last cell of a step's loss and delta at each cell, float64 [cells].

    Interpolation finds where the loss crosses a cell. An error there changes delta in second order
    only, because delta is the largest difference over all such places.
    """
    x = np.linspace(-_REACH * noise, _REACH * noise + k, 2**17)
    loss = mixture_loss(x, noise, rate, k)
    low, high = math.floor(loss[0] / interval), math.ceil(loss[-1] / interval)
    if direction == "add":
        low, high = -high, -low
    cells = interval * np.arange(low, high + 1)
    at = np.interp(cells if direction == "remove" else -cells, loss, x)
    weights = [(j, p) for j, p in enumerate(binom.pmf(np.arange(k + 1), k, rate)) if p > 0]
    if direction == "remove":  # the upper world is the mixture; large x is likelier there
        upper = sum(p * ndtr((j - at) / noise) for j, p in weights)
        lower = np.exp(cells + log_ndtr(-at / noise))
    else:  # the upper world is the single Gaussian; small x is likelier there
        upper = ndtr(at / noise)
        lower = sum(np.exp(math.log(p) + cells + log_ndtr((at - j) / noise)) for j, p in weights)
    deltas = np.clip(upper - lower, 0.0, 1.0)
    return low, high, np.maximum.accumulate(deltas[::-1])[::-1]


def mixture_loss(x: NDArray[np.float64], noise: float, rate: float, k: int) -> NDArray[np.float64]:
    """The log density of N(Binomial(k, rate), noise^2) over that of N(0, noise^2): float64 [x]."""
    terms = [j * (2 * x - j) / (2 * noise**2) + binom.logpmf(j, k, rate) for j in range(k + 1)]
    return np.asarray(logsumexp(terms, axis=0))
