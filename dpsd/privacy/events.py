"""What the accountant knows of one release: immutable facts, their JSON, their mu and rho."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

from dpsd.errors import UserError


@dataclass(frozen=True)
class GaussianRelease:
    """A Gaussian mechanism: L2 sensitivity and noise deviation, in the same unit."""

    sensitivity: float
    sigma: float

    @property
    def mu(self) -> float:
        """The mechanism is mu-GDP."""
        return self.sensitivity / self.sigma


@dataclass(frozen=True)
class PureRelease:
    """A mechanism with pure epsilon."""

    epsilon: float


@dataclass(frozen=True)
class OpenRelease:
    """A release without any noise: epsilon is infinite."""


@dataclass(frozen=True)
class VotesRelease:
    """Integers with exact discrete Gaussian noise of parameter sigma, relation replace-one.

    `cells` of them differ by one between the two worlds: two for a histogram of votes of which one
    moves, one for its largest count.
    """

    sigma: float
    cells: int = 2

    @property
    def rho(self) -> float:
        """The release is rho-zCDP (Canonne, Kamath and Steinke 2020, theorem 14)."""
        return self.cells / (2 * self.sigma**2)


@dataclass(frozen=True)
class DpSgdRelease:
    """A whole training by DP-SGD: Poisson sampling, Gaussian noise on a sum of clipped gradients.

    Args:
        noise_multiplier: deviation of the noise in units of the clipping norm.
        sample_rate: chance of a row to be in a batch.
        steps: batches.
    """

    noise_multiplier: float
    sample_rate: float
    steps: int


Release = GaussianRelease | PureRelease | OpenRelease | VotesRelease | DpSgdRelease
Relation = Literal["replace_one", "add_or_remove_one"]


def total_mu(releases: Iterable[tuple[Release, int]]) -> float:
    """Mu of all Gaussian releases together: the root of the sum of (sensitivity / sigma)^2."""
    return math.sqrt(sum(r.mu**2 * n for r, n in releases if isinstance(r, GaussianRelease)))


def event_facts(event: Release) -> dict[str, Any]:
    """An accounting release as plain values."""
    if isinstance(event, GaussianRelease):
        return {"kind": "gaussian", "sensitivity": event.sensitivity, "sigma": event.sigma}
    if isinstance(event, PureRelease):
        return {"kind": "pure", "epsilon": event.epsilon}
    if isinstance(event, VotesRelease):
        return {"kind": "votes", "sigma": event.sigma, "cells": event.cells}
    if isinstance(event, DpSgdRelease):
        return {"kind": "dp_sgd", "noise_multiplier": event.noise_multiplier,
                "sample_rate": event.sample_rate, "steps": event.steps}  # fmt: skip
    return {"kind": "open"}


def event_from_facts(facts: dict[str, Any]) -> Release:
    """The inverse of `event_facts`.

    Raises:
        UserError: a kind that the accountant does not know.
    """
    kind = facts.get("kind")
    if kind == "gaussian":
        return GaussianRelease(float(facts["sensitivity"]), float(facts["sigma"]))
    if kind == "pure":
        return PureRelease(float(facts["epsilon"]))
    if kind == "votes":
        return VotesRelease(float(facts["sigma"]), int(facts["cells"]))
    if kind == "dp_sgd":
        return DpSgdRelease(
            float(facts["noise_multiplier"]), float(facts["sample_rate"]), int(facts["steps"])
        )
    if kind == "open":
        return OpenRelease()
    raise UserError(f"release kind: {kind!r}; accepted: gaussian, pure, votes, dp_sgd, open")
