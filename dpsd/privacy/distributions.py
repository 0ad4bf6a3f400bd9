"""Upper bounds for what has no closed form (votes and DP-SGD), by privacy-loss distributions.

dp-accounting composes the distributions. The discrete Gaussian is discretised by connecting the
dots (Doroshenko et al. 2022, arXiv 2207.04380), because dp-accounting's default, privacy buckets,
is far from tight under composition. Where a zero-concentrated bound is known (Canonne, Kamath and
Steinke 2020, arXiv 2004.00010, proposition 12), it caps epsilon.
"""

import functools
import math
from collections.abc import Mapping
from typing import Any

from scipy.optimize import minimize_scalar

from dpsd.privacy.events import (
    DpSgdRelease,
    GaussianRelease,
    PureRelease,
    Relation,
    Release,
    VotesRelease,
    total_mu,
)

_INTERVAL = 1e-4  # of the discretised loss, while the composed loss stays near 100
_LARGEST = 5000.0  # expected loss above which we give the zero-concentrated bound alone
_WIDEST = 1e5  # the same for a sigma, in votes


def delta(counts: Mapping[Release, int], epsilon: float, relation: Relation) -> float:
    """An upper bound on a composition's delta at epsilon.

    Args:
        counts: what is released, each with how often.
        epsilon: from 0.
        relation: of `DpSgdRelease`.
    """
    if _unwieldy(counts):
        return zcdp_delta(_rho(counts), epsilon)
    return float(_distribution(frozenset(counts.items()), relation).get_delta_for_epsilon(epsilon))


def epsilon(counts: Mapping[Release, int], delta: float, relation: Relation) -> float:
    """The smallest known eps at which a composition is (eps, delta)-DP.

    Args:
        counts: what is released, each with how often.
        delta: in [0, 1).
        relation: of `DpSgdRelease`.
    """
    if delta == 0:
        return math.inf
    bound = zcdp_epsilon(_rho(counts), delta)
    if _unwieldy(counts):
        return bound
    composed = _distribution(frozenset(counts.items()), relation)
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


def _rho(counts: Mapping[Release, int]) -> float:
    """Zero-concentrated DP of the composition; infinite where DP-SGD takes part."""
    return sum(n * release.rho for release, n in counts.items())


def _unwieldy(counts: Mapping[Release, int]) -> bool:
    """Whether distributions would take minutes or gigabytes."""
    wide = any(isinstance(r, VotesRelease) and r.sigma > _WIDEST for r in counts)
    return wide or _expected_loss(counts) > _LARGEST


def _expected_loss(counts: Mapping[Release, int]) -> float:
    """About how far the composed loss reaches, DP-SGD aside."""
    rho = _rho({r: n for r, n in counts.items() if not isinstance(r, DpSgdRelease)})
    return rho + 10 * math.sqrt(2 * rho)


@functools.lru_cache(maxsize=64)
def _distribution(counts: frozenset[tuple[Release, int]], relation: Relation) -> Any:
    from dp_accounting.pld import privacy_loss_distribution as pld

    interval = _INTERVAL * max(1.0, _expected_loss(dict(counts)) / 100)
    parts = [_part(release, n, interval, relation) for release, n in counts
             if not isinstance(release, GaussianRelease)]  # fmt: skip
    if (mu := total_mu(counts)) > 0:
        parts.append(pld.from_gaussian_mechanism(1 / mu, value_discretization_interval=interval))
    return functools.reduce(lambda a, b: a.compose(b), parts)


def _part(release: Release, n: int, interval: float, relation: Relation) -> Any:
    from dp_accounting.pld import common
    from dp_accounting.pld import privacy_loss_distribution as pld
    from dp_accounting.privacy_accountant import NeighboringRelation

    if isinstance(release, VotesRelease):
        one = pld.from_discrete_gaussian_mechanism(
            release.sigma, sensitivity=1, value_discretization_interval=interval,
            use_connect_dots=True,
        )  # fmt: skip
        return one.self_compose(release.cells * n)
    if isinstance(release, DpSgdRelease):
        one = pld.from_gaussian_mechanism(
            release.noise_multiplier, value_discretization_interval=interval,
            sampling_prob=release.sample_rate,
            neighboring_relation=NeighboringRelation[relation.upper()],
        )  # fmt: skip
        return one.self_compose(release.steps * n)
    assert isinstance(release, PureRelease)
    binary = common.DifferentialPrivacyParameters(release.epsilon, 0)
    one = pld.from_privacy_parameters(binary, value_discretization_interval=interval)
    return one.self_compose(n)
