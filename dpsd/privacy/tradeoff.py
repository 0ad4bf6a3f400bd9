"""What a guarantee means for an attacker: the highest true-positive rate of a membership test."""

import math
from collections.abc import Callable, Iterable, Sequence

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import ndtr, ndtri

from dpsd.errors import UserError
from dpsd.privacy.accounting import compose_delta, compose_epsilon, delta_curve
from dpsd.privacy.events import GaussianRelease, Relation, Release, total_mu

_LARGEST_EPSILON = 36.0  # beyond it 1 - e^-eps is 1 in floating point
_EPSILONS = np.geomspace(0.01, _LARGEST_EPSILON, 100)  # of a curve


def highest_tpr(
    releases: Iterable[tuple[Release, int]], fpr: float = 0.01, relation: Relation = "replace_one"
) -> float:
    """The highest true-positive rate of any membership test at this false-positive rate.

    The test sees all releases and decides between two worlds that differ in one unit (the unit
    for which the sensitivities of the releases were computed). Whatever it computes, (eps, delta)
    bounds its rate by min(delta + e^eps fpr, 1 - e^-eps (1 - delta - fpr)) (Kairouz, Oh and
    Viswanath 2017). We minimise over the whole curve delta(eps). Each point of the curve gives a
    valid bound, so an inexact minimum is still a bound. The first term is convex in e^eps and the
    second in e^-eps, so each has one minimum. Gaussians alone have the closed form
    Phi(Phi^-1(fpr) + mu) (Dong, Roth and Su 2022).

    Args:
        releases: what is released, each with how often.
        fpr: the false-positive rate, in (0, 1).
        relation: as in `compose_delta`.

    Returns:
        A rate in [fpr, 1]; 1 where a release is open.

    Raises:
        UserError: `fpr` is out of range.
    """
    if not 0 < fpr < 1:
        raise UserError(f"fpr: {fpr}; accepted: above 0 and below 1")
    counts = [(release, n) for release, n in releases if n > 0]
    if any(release.kind == "open" for release, _ in counts):
        return 1.0
    if all(isinstance(release, GaussianRelease) for release, _ in counts):
        return float(ndtr(ndtri(fpr) + total_mu(counts)))

    def few_positives(epsilon: float) -> float:
        return math.exp(epsilon) * fpr + compose_delta(epsilon, counts, relation)

    def few_negatives(epsilon: float) -> float:
        rest = 1 - compose_delta(epsilon, counts, relation) - fpr
        return 1 - math.exp(-epsilon) * rest

    best = min(
        _lowest(few_positives, -math.log(fpr)), _lowest(few_negatives, _LARGEST_EPSILON), 1.0
    )
    return max(fpr, best)


def highest_tprs(
    releases: Iterable[tuple[Release, int]],
    fprs: Sequence[float],
    relation: Relation = "replace_one",
) -> list[float]:
    """`highest_tpr` at many false-positive rates, for a curve.

    The curve delta(eps) is computed at fixed points. Each of them gives a valid bound, so the rates
    are bounds too, at most a tenth above those of `highest_tpr`.

    Args:
        releases: as in `highest_tpr`.
        fprs: false-positive rates, each in (0, 1).
        relation: as in `compose_delta`.
    """
    counts = [(release, n) for release, n in releases if n > 0]
    exact = all(isinstance(release, GaussianRelease) for release, _ in counts)
    if exact or any(release.kind == "open" for release, _ in counts):
        return [highest_tpr(counts, fpr, relation) for fpr in fprs]
    delta, pure = delta_curve(counts, relation), compose_epsilon(counts, 0.0, relation)
    curve = [(e, delta(e)) for e in (0.0, *map(float, _EPSILONS))]
    curve += [(pure, 0.0)] if pure <= _LARGEST_EPSILON else []

    def best(fpr: float) -> float:
        few = min(math.exp(e) * fpr + d for e, d in curve)
        return max(fpr, min(1.0, few, *(1 - math.exp(-e) * (1 - d - fpr) for e, d in curve)))

    return [best(fpr) for fpr in fprs]


def _lowest(bound: Callable[[float], float], largest: float) -> float:
    found = minimize_scalar(bound, bounds=(0.0, largest), method="bounded", options={"xatol": 1e-9})
    return min(float(found.fun), bound(0.0))
