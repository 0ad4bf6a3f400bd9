"""What the accountant knows of one release: immutable facts, their JSON, their mu and rho."""

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar, Literal

from dpsd.errors import UserError

Relation = Literal["replace_one", "add_or_remove_one"]


@dataclass(frozen=True)
class Release:
    """One release, as the accountant sees it. Releases with equal facts are equal.

    Attributes:
        kind: its name in a ledger.
        closed_form: whether compositions have an exact formula. Others need loss distributions.
    """

    kind: ClassVar[str]
    closed_form: ClassVar[bool] = True

    @property
    def mu(self) -> float:
        """The release is mu-GDP; 0 if it is not Gaussian."""
        return 0.0

    @property
    def rho(self) -> float:
        """The release is rho-zCDP; infinite where no such bound is known."""
        return math.inf


@dataclass(frozen=True)
class GaussianRelease(Release):
    """A Gaussian mechanism: L2 sensitivity and standard deviation of the noise, in one unit."""

    sensitivity: float
    sigma: float
    kind = "gaussian"

    @property
    def mu(self) -> float:
        """The mechanism is mu-GDP."""
        return self.sensitivity / self.sigma

    @property
    def rho(self) -> float:
        """Mu squared over 2."""
        return self.mu**2 / 2


@dataclass(frozen=True)
class PureRelease(Release):
    """A mechanism with pure epsilon."""

    epsilon: float
    kind = "pure"

    @property
    def rho(self) -> float:
        """Epsilon squared over 2 (Bun and Steinke 2016, proposition 3.3)."""
        return self.epsilon**2 / 2


@dataclass(frozen=True)
class OpenRelease(Release):
    """A release without any noise: epsilon is infinite."""

    kind = "open"


@dataclass(frozen=True)
class VotesRelease(Release):
    """Integers with exact discrete Gaussian noise of parameter sigma, relation replace-one.

    `cells` of them differ by one between the two worlds. A histogram in which one vote or record
    moves has two.
    """

    sigma: float
    cells: int = 2
    kind = "votes"
    closed_form = False

    @property
    def rho(self) -> float:
        """The release is rho-zCDP (Canonne, Kamath and Steinke 2020, theorem 14)."""
        return self.cells / (2 * self.sigma**2)


@dataclass(frozen=True)
class DpSgdRelease(Release):
    """A whole training by DP-SGD: Poisson sampling, Gaussian noise on a sum of clipped gradients.

    Args:
        noise_multiplier: standard deviation of the noise in units of the clipping norm.
        sample_rate: probability that a row is in a batch.
        steps: batches.
    """

    noise_multiplier: float
    sample_rate: float
    steps: int
    kind = "dp_sgd"
    closed_form = False


_KINDS: dict[str, type[Release]] = {
    event.kind: event
    for event in (GaussianRelease, PureRelease, VotesRelease, DpSgdRelease, OpenRelease)
}


def total_mu(releases: Iterable[tuple[Release, int]]) -> float:
    """Mu of all Gaussian releases together: the root of the sum of (sensitivity / sigma)^2."""
    return math.sqrt(sum(r.mu**2 * n for r, n in releases))


def event_facts(event: Release) -> dict[str, Any]:
    """An accounting release as plain values."""
    return {"kind": event.kind} | asdict(event)


def event_from_facts(facts: dict[str, Any]) -> Release:
    """The inverse of `event_facts`.

    Raises:
        UserError: a kind that the accountant does not know.
    """
    event = _KINDS.get(str(facts.get("kind")))
    if event is None:
        raise UserError(f"release kind: {facts.get('kind')!r}; accepted: {', '.join(_KINDS)}")
    numbers = {f.name: (int if f.type is int else float)(facts[f.name]) for f in fields(event)}
    return event(**numbers)
