"""Simulated honest accounts: what a guard is calibrated and tested on where no log is at hand.

Honest accounts differ: some see few classes, some send blurred or turned pictures, some are batch
jobs, some change what they ask in the middle of the month. A calibration that has seen none of
these takes them for attackers.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dpsd.guard.detection.calibrate import Stream

MONTH = 30
"""Days."""
_DAY, _HOUR = 86_400.0, 3_600.0
_OFFICE = np.array(
    [1, 1, 1, 1, 1, 2, 4, 8, 14, 18, 18, 17, 14, 16, 18, 18, 16, 12, 8, 6, 5, 4, 3, 2.0]
)
GROUPS: dict[str, float] = {
    "usual": 0.66, "few classes": 0.08, "altered": 0.12, "batch": 0.06, "bursts": 0.04,
    "new product": 0.04,
}  # fmt: skip
"""Kind of honest account -> share of all."""


@dataclass(frozen=True)
class Bank:
    """Where the questions of honest accounts come from.

    Attributes:
        classes: of the plain questions as the served model names them, int64 [N].
        versions: copies of these questions, one after the other: plain ones first, then altered
            ones. Question i in version v is row v * N + i.
    """

    classes: NDArray[np.int64]
    versions: int = 1


def honest_account(rng: np.random.Generator, bank: Bank, group: str, median: float) -> Stream:
    """One account over a month from a Monday on.

    Args:
        rng: draws all.
        bank: of questions.
        group: a name in `GROUPS`.
        median: questions of an account in a month.
    """
    n = int(np.clip(rng.lognormal(np.log(median), 1), 5, 20 * median))
    sharp = 0.15 if group == "few classes" else 1.0
    rows = _mixed(rng, bank, n, sharp)
    if group == "new product":
        rows[n // 2 :] = _mixed(rng, bank, n - n // 2, 0.3)
    if group == "altered" and bank.versions > 1:
        version = rng.integers(1, bank.versions)
        rows[rng.random(n) < rng.uniform(0.3, 1)] += version * len(bank.classes)
    at = {"batch": _batches, "bursts": _bursts}.get(group, _people)(rng, n)
    return Stream(rows, np.sort(at), bool(rng.random() < 0.8))


def honest_accounts(
    bank: Bank, count: int, *, median: float = 150, seed: int, shares: Mapping[str, float] = GROUPS
) -> list[tuple[str, Stream]]:
    """Accounts with the names of their groups.

    Args:
        bank: of questions.
        count: of accounts.
        median: questions of an account in a month.
        seed: of all that is drawn.
        shares: of the groups.
    """
    rng = np.random.default_rng(seed)
    total = sum(shares.values())
    drawn = rng.choice(list(shares), count, p=[s / total for s in shares.values()])
    return [(str(g), honest_account(rng, bank, str(g), median)) for g in drawn]


def _mixed(rng: np.random.Generator, bank: Bank, n: int, sharp: float) -> NDArray[np.int64]:
    """Questions whose classes the account draws from a mixture of its own."""
    places = [np.flatnonzero(bank.classes == c) for c in np.unique(bank.classes)]
    mixture = rng.dirichlet([sharp] * len(places))
    counts = rng.multinomial(n, mixture)
    rows = np.concatenate([rng.choice(p, k) for p, k in zip(places, counts, strict=True)])
    return rng.permutation(rows).astype(np.int64)


def _people(rng: np.random.Generator, n: int) -> NDArray[np.float64]:
    """Sessions of a few minutes at office hours on working days."""
    sessions = max(1, n // int(rng.integers(5, 25)))
    day = rng.integers(0, MONTH, sessions)
    day -= np.where(day % 7 >= 5, 2, 0)
    start = day * _DAY + rng.choice(24, sessions, p=_OFFICE / _OFFICE.sum()) * _HOUR
    which = rng.integers(0, sessions, n)
    return np.asarray(start[which] + rng.uniform(0, _HOUR, sessions)[which]
                      + rng.exponential(300, n))  # fmt: skip


def _batches(rng: np.random.Generator, n: int) -> NDArray[np.float64]:
    """A job at the same minute of every day, in even steps."""
    hour, step = rng.uniform(0, 24), rng.uniform(0.1, 5)
    day = np.arange(n) * MONTH // n
    place = np.arange(n) - np.searchsorted(day, day)
    return np.asarray(day * _DAY + hour * _HOUR + place * step)


def _bursts(rng: np.random.Generator, n: int) -> NDArray[np.float64]:
    """Everything within few hours."""
    starts = rng.uniform(0, MONTH * _DAY, int(rng.integers(1, 4)))
    return np.asarray(rng.choice(starts, n) + rng.exponential(900, n))
