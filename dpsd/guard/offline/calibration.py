"""Calibrate a guard on logged traffic that its operator takes for honest."""

import secrets
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from dpsd.console import Say
from dpsd.errors import UserError
from dpsd.guard.detection.calibrate import Teach, calibrate
from dpsd.guard.detection.outliers import Floats, Outliers, fit_outliers
from dpsd.guard.detection.reference import Reference
from dpsd.guard.offline.logged import logged_accounts, logged_questions

_LEAST, _MOST = 500, 50_000  # questions of attackers


def calibrate_on_logs(
    logs: Sequence[Path], *, alpha: float, say: Say, width: int | None = None,
    classes: int | None = None, teach: Teach | None = None,
) -> Reference:  # fmt: skip
    """Calibrate on logged accounts that their operator takes for honest.

    Args:
        logs: with features, see `dpsd.guard.offline.logged`.
        alpha: false-alarm rate of an account in a month, or in the time of shorter logs.
        say: receives a line.
        width: of the features; None: as the logs have them.
        classes: of the answers; None: as the logs have them.
        teach: makes the detector of outliers from honest questions; None: it is silent.

    Raises:
        UserError: logs of another model, or too few accounts or questions for the rate.
    """
    found = logged_accounts(logs, width, classes)
    part = f"; {found.left_out:.0%} of the accounts were left out" if found.left_out else ""
    say(f"{len(found.streams):,} logged accounts over {found.days:.1f} days, "
        f"{len(found.features):,} questions{part}")  # fmt: skip
    enough_accounts(len(found.streams), alpha, "--logs")
    return calibrate(found.features, found.answers, found.hashes, found.streams, alpha=alpha,
                     seed=secrets.randbits(63), outliers=teach)  # fmt: skip


def teach_from_logs(logs: Sequence[Path]) -> Teach:
    """Shows the detector of outliers logged questions of attackers, or such as they would ask.

    Args:
        logs: as those of honest accounts; whose the questions are does not matter.

    Raises:
        UserError: logs that cannot be read, or fewer than 500 questions; later, questions of
            another model than honest ones.
    """
    seen, said = logged_questions(logs, _MOST)
    if len(seen) < _LEAST:
        raise UserError(f"--outliers: {len(seen)} questions; accepted: at least {_LEAST}")

    def teach(features: Floats, answers: Floats) -> Outliers:
        for name, own, honest in (("features", seen, features), ("answers", said, answers)):
            if own.shape[1] != honest.shape[1]:
                raise UserError(f"--outliers: {name} of {own.shape[1]:,} numbers; accepted: "
                                f"{honest.shape[1]:,}, as --logs has")  # fmt: skip
        return fit_outliers(features, answers, (seen, said), secrets.randbits(63))

    return teach


def enough_accounts(accounts: int, alpha: float, field: str) -> None:
    """Three fifths of the accounts set the level.

    Raises:
        UserError: a rate outside of 0 to 1, or too few accounts for it.
    """
    if not 0 < alpha < 1:
        raise UserError(f"--alpha: {alpha}; accepted: above 0, below 1")
    needed = int(np.ceil((1 / alpha - 1) * 5 / 3 - 1e-9)) + 1
    if accounts < needed:
        raise UserError(f"{field}: {accounts:,} accounts; a false-alarm rate of {alpha:g} an "
                        f"account needs at least {needed:,}")  # fmt: skip
