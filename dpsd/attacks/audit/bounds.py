"""Lower bounds on epsilon and mu, each beside its ceiling, the claim, the unit and a verdict.

The functions take counts or scores of many audits at once, so that error rates can be measured over
hundreds of simulated audits.
"""

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtri

from dpsd.attacks.statistics import Floats, clopper_pearson
from dpsd.privacy.accounting import gaussian_epsilon

Verdict = Literal["consistent", "violated", "no power", "not claimed"]

ALPHA = 0.05
_CANDIDATES = 60
_WARY = 0.1  # of alpha, where thresholds are compared
_ALL = 1000
_TWO_WORLDS = "two worlds, Clopper-Pearson"
_GDP = "two worlds, mu of Gaussian DP"


@dataclass(frozen=True)
class Bound:
    """A lower bound that holds with `confidence`, and everything that it must be read with.

    `value`, `ceiling` and `claimed` are epsilons at `delta`, or mus where `quantity` says so, of
    one `unit`. `claimed` None: nothing is claimed for this unit.
    """

    method: str
    quantity: Literal["epsilon", "mu"]
    unit: str
    value: float
    ceiling: float
    claimed: float | None
    delta: float
    confidence: float
    trials: int

    @property
    def verdict(self) -> Verdict:
        """`violated` where the bound refutes the claim; `no power` where no bound could have.

        A perfect attack reaches the ceiling, so a claim at or above the ceiling cannot be refuted
        with so many trials, whatever the mechanism does.
        """
        if self.claimed is None:
            return "not claimed"
        if self.value > self.claimed:
            return "violated"
        return "no power" if self.ceiling <= self.claimed else "consistent"

    def facts(self) -> dict[str, Any]:
        """Plain values for a report; an infinite claim is None beside `claimed_infinite`."""
        facts = asdict(self) | {"verdict": self.verdict}
        if self.quantity == "mu":  # what it means for a mechanism that is Gaussian
            implied = gaussian_epsilon(self.value, self.delta) if self.value > 0 else 0.0
            facts["implied_epsilon"] = implied
        infinite = self.claimed is not None and math.isinf(self.claimed)
        claimed = None if infinite else self.claimed
        return facts | {"claimed": claimed, "claimed_infinite": infinite}

    def text(self) -> str:
        """One line for people."""
        claim = "nothing" if self.claimed is None else f"{self.claimed:.4g}"
        verdict: str = self.verdict
        if verdict == "not claimed":
            verdict += f", at least {self.value:.4g}"
        return (
            f"{self.quantity} per {self.unit}: at least {self.value:.4g} at "
            f"{100 * self.confidence:.3g} % confidence, ceiling {self.ceiling:.4g}, "
            f"claimed {claim}, delta {self.delta:g}, {self.trials:,} trials ({self.method}): "
            f"{verdict}"
        )


def epsilon_from_hits(
    hits0: ArrayLike, n0: ArrayLike, hits1: ArrayLike, n1: ArrayLike, delta: float, alpha: float
) -> Floats:
    """Lower bound on epsilon from how often a fixed test decides for world 1 in either world.

    ln((TPR_lo - delta) / FPR_hi) or the same of the complement, the larger; at least 0. Both rates
    hold together at confidence 1 - alpha, and so do both directions.
    """
    fpr, tpr = _rates(hits0, n0, hits1, n1, alpha)
    with np.errstate(divide="ignore", invalid="ignore"):
        forward = np.log((tpr - delta) / fpr)
        backward = np.log((1 - fpr - delta) / (1 - tpr))
    return np.fmax(0.0, np.fmax(forward, backward))


def mu_from_hits(
    hits0: ArrayLike, n0: ArrayLike, hits1: ArrayLike, n1: ArrayLike, alpha: float
) -> Floats:
    """Lower bound on the mu of Gaussian DP: Phi^-1(TPR_lo) - Phi^-1(FPR_hi), at least 0.

    Dong, Roth and Su 2022, definition 4. For a mechanism that is not Gaussian
    the bound refutes the claim of mu-GDP and nothing else.
    """
    fpr, tpr = _rates(hits0, n0, hits1, n1, alpha)
    out = ndtri(tpr) - ndtri(fpr)
    return np.asarray(np.fmax(0.0, np.nan_to_num(out, nan=0.0, neginf=0.0)))


def chosen_on_half(
    world0: Floats, world1: Floats, *, delta: float, alpha: float, mu: bool = False
) -> Floats:
    """A lower bound whose threshold is chosen on the first half of the draws, tested on the second.

    The maximum over thresholds of the tested half is never computed. On the first half, bounds of a
    higher confidence compare the thresholds: without that, the largest of many bounds is often one
    in a tail that owes it to a few lucky draws, and it tests badly on the second half.

    Args:
        world0: scores of draws in world 0, float64 [n], or [audits, n] for many audits.
        world1: those in world 1.
        delta: of the (eps, delta) that is tested.
        alpha: probability that the bound exceeds the truth.
        mu: bound mu instead of epsilon.

    Returns:
        [] or [audits].
    """
    half0, half1 = world0.shape[-1] // 2, world1.shape[-1] // 2
    train0, train1 = np.sort(world0[..., :half0], -1), np.sort(world1[..., :half1], -1)
    pooled = np.sort(np.concatenate([train0, train1], -1), -1)
    places = _candidates(pooled.shape[-1], half0)
    above = np.minimum(places + 1, pooled.shape[-1] - 1)
    between = (pooled[..., places] + pooled[..., above]) / 2
    below = np.nextafter(pooled[..., places], -np.inf)  # so that equal scores count together
    thresholds = np.concatenate([between, below], -1)
    hits0, hits1 = (_above(train, thresholds) for train in (train0, train1))
    bounds = _bound(hits0, half0, hits1, half1, delta, _WARY * alpha, mu)
    best = np.take_along_axis(thresholds, bounds.argmax(-1)[..., None], -1)
    tested0, tested1 = world0[..., half0:], world1[..., half1:]
    hits0, hits1 = (tested0 > best).sum(-1), (tested1 > best).sum(-1)
    return _bound(hits0, tested0.shape[-1], hits1, tested1.shape[-1], delta, alpha, mu)


def ceiling(n: int, *, delta: float, alpha: float, mu: bool = False) -> float:
    """The bound of a perfect attack, which is right in all n trials of each world."""
    return float(_bound(np.array(0), n, np.array(n), n, delta, alpha, mu))


def two_world_bounds(
    world0: Floats,
    world1: Floats,
    *,
    unit: str,
    delta: float,
    claimed: float | None,
    claimed_mu: float | None = None,
    alpha: float = ALPHA,
    method: str = "",
) -> list[Bound]:
    """The non-parametric bound and, where a mu is claimed, the one on mu beside it.

    Args:
        world0: scores of draws in world 0, float64 [n].
        world1: scores in world 1, float64 [n].
        unit: what the two worlds differ in.
        delta: of the claim.
        claimed: epsilon of the claim, infinite or None where there is none.
        claimed_mu: mu of the claim of Gaussian DP.
        alpha: 1 - confidence of each bound.
        method: prefix of the name of the method.
    """
    tested = min(len(world0) - len(world0) // 2, len(world1) - len(world1) // 2)
    trials = len(world0) + len(world1)
    forms: list[tuple[Literal["epsilon", "mu"], float | None]] = [("epsilon", claimed)]
    if claimed_mu is not None:
        forms.append(("mu", claimed_mu))
    return [
        Bound(
            method=method + (_GDP if quantity == "mu" else _TWO_WORLDS),
            quantity=quantity,
            unit=unit,
            value=float(
                chosen_on_half(world0, world1, delta=delta, alpha=alpha, mu=quantity == "mu")
            ),
            ceiling=ceiling(tested, delta=delta, alpha=alpha, mu=quantity == "mu"),
            claimed=claim,
            delta=delta,
            confidence=1 - alpha,
            trials=trials,
        )
        for quantity, claim in forms
    ]


def _bound(
    hits0: ArrayLike, n0: int, hits1: ArrayLike, n1: int, delta: float, alpha: float, mu: bool
) -> Floats:
    if mu:
        return mu_from_hits(hits0, n0, hits1, n1, alpha)
    return epsilon_from_hits(hits0, n0, hits1, n1, delta, alpha)


def _rates(
    hits0: ArrayLike, n0: ArrayLike, hits1: ArrayLike, n1: ArrayLike, alpha: float
) -> tuple[Floats, Floats]:
    """Upper bound of the first rate, lower bound of the second, together at 1 - alpha."""
    return clopper_pearson(hits0, n0, alpha / 2)[1], clopper_pearson(hits1, n1, alpha / 2)[0]


def _candidates(count: int, middle: int) -> NDArray[np.int64]:
    """Places of thresholds among so many sorted scores: all, or a grid that is fine in the tails.

    `middle` is the place that separates two worlds that do not overlap.
    """
    if count <= _ALL:
        return np.arange(count)
    tail = np.unique(np.geomspace(1, count, _CANDIDATES).astype(np.int64)) - 1
    even = np.linspace(0, count - 1, _CANDIDATES).astype(np.int64)
    places: NDArray[np.int64] = np.unique(
        np.concatenate([tail, count - 1 - tail, even, [middle - 1]])
    )
    return places


def _above(ordered: Floats, thresholds: Floats) -> NDArray[np.int64]:
    """How many of the sorted scores lie above each threshold, along the last axis."""
    if ordered.ndim == 1:
        return np.asarray(ordered.shape[-1] - np.searchsorted(ordered, thresholds, "right"))
    counts = [_above(o, t) for o, t in zip(ordered, thresholds, strict=True)]
    return np.asarray(counts, dtype=np.int64)
