"""From windows of an account's questions to an alarm whose false-alarm rate holds at any time.

Three steps. A window's statistic becomes a p-value by statistics of benign windows, with bounds on
tail rates that hold together, so that the p-value is valid given the calibration. The p-value
becomes an e-value (Vovk and Wang 2021, *E-values: calibration, combination and applications*).
E-values of several detectors are averaged, those of windows multiplied, and an account that turns
bad late is caught by a mixture over starting points.

All of this takes an account's windows as benign ones are: new draws, whoever asks. Honest accounts
differ from each other, and one account's windows are alike; `alarm_level` makes up for that by
what whole benign accounts reach.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import betainccinv

from dpsd.errors import UserError

Floats = NDArray[np.float64]

WRONG = 1e-4
"""Probability that a calibration's bounds are too low; it is added to the false-alarm rate."""
_LEVELS = 2.0 ** -np.arange(1, 21)  # tail rates at which thresholds are set
_LEAST = 200  # benign windows
_KAPPA = 0.25
_MOST = 1e12  # of evidence, so that an account that changes its ways is cleared in finite time


@dataclass(frozen=True)
class Tail:
    """How often benign windows exceed thresholds.

    Attributes:
        thresholds: rising, float64 [J].
        rates: upper bounds on the rate of benign windows at or above each, float64 [J]; all hold
            together with probability 1 - `WRONG`.
    """

    thresholds: Floats
    rates: Floats

    def p_values(self, statistics: ArrayLike) -> Floats:
        """Valid p-values of windows: the bound at the highest threshold that each reaches."""
        reached = np.searchsorted(self.thresholds, np.asarray(statistics, np.float64), "right")
        return self._bounds[reached]

    @cached_property
    def _bounds(self) -> Floats:
        """By the number of thresholds that are reached."""
        return np.concatenate([[1.0], self.rates])


def calibrate(benign: ArrayLike) -> Tail:
    """The tail of benign windows' statistics.

    Thresholds are set on one half of the windows, and rates are bounded on the other, by Clopper
    and Pearson's upper bound at `WRONG` divided by the number of thresholds.

    Args:
        benign: statistics of independent benign windows, in random order.

    Raises:
        UserError: fewer than 200 windows.
    """
    values = np.asarray(benign, np.float64)
    if len(values) < _LEAST:
        raise UserError(f"benign windows: {len(values)}; accepted: at least {_LEAST}")
    first, second = np.sort(values[::2]), np.sort(values[1::2])
    levels = _LEVELS[1 / len(first) <= _LEVELS]
    thresholds = np.unique(np.quantile(first, 1 - levels, method="higher"))
    n = len(second)
    hits = n - np.searchsorted(second, thresholds, "left")
    rates = np.ones(len(thresholds))
    some = hits < n
    rates[some] = betainccinv(hits[some] + 1, n - hits[some], WRONG / len(thresholds))
    return Tail(thresholds, np.minimum.accumulate(rates))


def e_value(p: ArrayLike) -> Floats:
    """The calibrator kappa p^(kappa - 1) with kappa 1/4: mean at most 1 under the null."""
    return np.asarray(_KAPPA * np.asarray(p, np.float64) ** (_KAPPA - 1))


@dataclass(frozen=True)
class Evidence:
    """What an account's windows say so far; two numbers, whatever the account asks.

    The mixture sum_k w_k prod_(i >= k) e_i with w_k = 1 / (k (k + 1)), over all windows k in which
    an attack may have begun, is a non-negative supermartingale that starts at 1 where every e-value
    has mean at most 1 given the past. So it ever reaches 1 / alpha with probability at most alpha
    (Ville's inequality).

    Attributes:
        windows: seen.
        begun: the part of the mixture that has begun.
    """

    windows: int = 0
    begun: float = 0.0

    def after(self, e_values: Sequence[float]) -> "Evidence":
        """With one more window.

        Args:
            e_values: of the detectors on this window; their mean is taken, which is an e-value
                whatever their dependence.
        """
        return self.after_mean(sum(e_values) / len(e_values))

    def after_mean(self, e: float) -> "Evidence":
        """With one more window, whose detectors' weighted mean is `e`; weights sum to 1."""
        n = self.windows + 1
        return Evidence(n, min(e * (self.begun + 1 / (n * (n + 1))), _MOST))

    @property
    def value(self) -> float:
        """The mixture: 1 without windows."""
        return self.begun + 1 / (self.windows + 1)


def alarm_level(alpha: float, benign_maxima: ArrayLike) -> float:
    """The value at which an account raises an alarm.

    It is 1 / alpha, or more where benign accounts reach more: honest accounts are alike within and
    differ from each other, which the product of windows takes for evidence. Under the null that the
    account is one more of the benign ones, its largest value exceeds the largest of n - k + 1 of n
    benign ones with probability at most k / (n + 1) (conformal p-value), whatever the dependence of
    its windows.

    Args:
        alpha: false-alarm rate of an account over the time that the benign ones were watched for.
        benign_maxima: the largest value of each benign account over that time, at least
            1 / alpha - 1 accounts.

    Raises:
        UserError: a rate outside of 0 to 1, or too few accounts for it; says how many are needed.
    """
    if not 0 < alpha < 1:
        raise UserError(f"alpha: {alpha}; accepted: above 0, below 1")
    maxima = np.sort(np.asarray(benign_maxima, np.float64))
    allowed = math.floor(alpha * (len(maxima) + 1) + 1e-9)
    if allowed < 1:
        needed = math.ceil(1 / alpha - 1 - 1e-9)
        raise UserError(
            f"benign accounts: {len(maxima)}; a false-alarm rate of {alpha:g} for an account needs "
            f"at least {needed:,}"
        )
    reached = maxima[len(maxima) - allowed]
    return max(1 / alpha, float(np.nextafter(reached, np.inf)))
