"""A data set's total budget: what all runs on it may release together, for one unit of privacy."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from dpsd.console import show_epsilon
from dpsd.errors import BudgetError, UserError
from dpsd.privacy import accounting
from dpsd.privacy.composition import is_open, together
from dpsd.privacy.events import DpSgdRelease, GaussianRelease, PureRelease, Release, VotesRelease
from dpsd.privacy.record import RunRecord
from dpsd.privacy.units import TEST_RECORD

UNITS = ("record", "user", "client", TEST_RECORD)
"""The units that a budget can be for."""
_SLACK = 1e-9  # relative, of epsilon: rounding of what was calibrated to the budget itself
_STEPS = 12  # halvings in the search for what would fit
_ROUGH = 6  # halvings in the search for what is left: within 2 % of the budget


@dataclass(frozen=True)
class Allowance:
    """The budget of a data set.

    Attributes:
        unit: of privacy.
        epsilon: of all runs together.
        delta: at which epsilon is judged.
        set: when, as text.
    """

    unit: str
    epsilon: float
    delta: float
    set: str = ""

    def spent(self, runs: Sequence[RunRecord]) -> float:
        """Epsilon of all that the runs may release, at the budget's delta; may be infinite."""
        return accounting.compose_epsilon(together(runs, self.unit), self.delta)

    def fits(self, runs: Sequence[RunRecord]) -> bool:
        """Whether the runs together stay within the budget."""
        return self.spent(runs) <= self.epsilon * (1 + _SLACK)

    def left(self, runs: Sequence[RunRecord]) -> float:
        """The largest epsilon of one more run with Gaussian noise that fits, at the same delta."""
        before = together(runs, self.unit)
        if not before:
            return self.epsilon

        def fits(mu: float) -> bool:
            all_ = [*before, (GaussianRelease(mu, 1.0), 1)]
            return accounting.compose_epsilon(all_, self.delta) <= self.epsilon

        if is_open(before) or not fits(1e-3):
            return 0.0
        low, high = 1e-3, accounting.gaussian_mu(self.epsilon, self.delta)
        for _ in range(_ROUGH):
            middle = (low + high) / 2
            low, high = (middle, high) if fits(middle) else (low, middle)
        return accounting.gaussian_epsilon(low, self.delta)

    def refuse_below_spent(self, runs: Sequence[RunRecord]) -> None:
        """Refuse a budget that is smaller than what is spent already.

        Raises:
            UserError: with what is spent.
        """
        if self.unit not in UNITS:
            raise UserError(f"--unit: {self.unit}; accepted: {', '.join(UNITS)}")
        spent = self.spent(runs)
        if not self.fits(runs):
            raise UserError(
                f"--epsilon: {self.epsilon:g} for one {self.unit} at delta {self.delta:g} is below "
                f"what is spent: {show_epsilon(_finite(spent))} for one {self.unit}; accepted: "
                + ("none, since an open release has no finite epsilon" if math.isinf(spent)
                   else f"from {show_epsilon(spent)}")
            )  # fmt: skip


def refuse_beyond(
    allowances: Sequence[Allowance], before: Sequence[RunRecord], new: Sequence[RunRecord]
) -> None:
    """Refuse runs that would exceed a budget of their data set.

    Args:
        allowances: the budgets in force.
        before: the runs in the ledger.
        new: those to be entered, together.

    Raises:
        BudgetError: one line with the budget, what is spent and what would fit.
    """
    for a in allowances:
        if not together(new, a.unit):
            continue  # about other rows
        runs = [*before, *new]
        exceeded_by_open = is_open(together(runs, a.unit))
        if a.fits(runs) or (exceeded_by_open and any(r.allow_open for r in new)):
            continue
        spent = _finite(a.spent(before))
        raise BudgetError(
            f"budget of the data set: epsilon {a.epsilon:g} for one {a.unit} at delta {a.delta:g}, "
            f"of which {show_epsilon(spent)} is spent; this run would make it "
            f"{show_epsilon(_finite(a.spent(runs)))} for one {a.unit}; "
            + _what_would_fit(a, before, new)
        )


def _what_would_fit(a: Allowance, before: Sequence[RunRecord], new: Sequence[RunRecord]) -> str:
    if is_open(together(before, a.unit)):
        return (
            "an earlier run has no finite epsilon for this unit; accepted: --allow-open, which is "
            "logged and printed in the statement"
        )
    if is_open(together(new, a.unit)):
        return (
            f"nothing bounds what it tells of one {a.unit}; accepted: a route for this unit, or "
            "--allow-open, which is logged and printed in the statement"
        )

    def fits(factor: float) -> bool:
        return a.fits([*before, *(replace(r, event=_quieter(r.event, factor)) for r in new)])

    low, high = 1.0, 1.0  # factors of the noise
    while not fits(high):
        low, high = high, 2 * high
        if high > 1e4:
            return "accepted: no further run about this unit"
    for _ in range(_STEPS):
        middle = math.sqrt(low * high)
        low, high = (low, middle) if fits(middle) else (middle, high)
    quieter = [replace(r, event=_quieter(r.event, high)) for r in new]
    return f"accepted: a run of up to epsilon {show_epsilon(a.spent(quieter))} for one {a.unit}"


def _quieter(event: Release, factor: float) -> Release:
    """The same release with so many times the noise."""
    if isinstance(event, VotesRelease):
        return replace(event, sigma=event.sigma * factor)
    if isinstance(event, DpSgdRelease):
        return replace(event, noise_multiplier=event.noise_multiplier * factor)
    if isinstance(event, GaussianRelease):
        return replace(event, sigma=event.sigma * factor)
    assert isinstance(event, PureRelease)
    return PureRelease(event.epsilon / factor)


def _finite(x: float) -> float | None:
    return x if math.isfinite(x) else None
