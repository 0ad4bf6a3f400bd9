"""Honest accounts of access logs, as what a guard is calibrated on."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dpsd.errors import UserError
from dpsd.guard.detection.calibrate import Stream
from dpsd.guard.offline.logs import lists, open_logs

_MONTH = 30 * 86_400.0
_MOST = 2**28  # numbers that are held: a gigabyte
_BATCH = 50_000  # rows


@dataclass(frozen=True)
class Logged:
    """Questions of accounts whose owner says that they are honest.

    Attributes:
        features: float32 [N, F].
        answers: probabilities float32 [N, K]; K is 1 where the logs have none.
        hashes: of near-duplicates, uint64 [N]; None: the logs have none.
        streams: one for each account and month of 30 days; places in the rows above.
        days: length of a stream, at most 30.
        left_out: share of accounts that were left out, since all would not fit in memory.
    """

    features: NDArray[np.float32]
    answers: NDArray[np.float32]
    hashes: NDArray[np.uint64] | None
    streams: list[Stream]
    days: float
    left_out: float = 0.0


def logged_accounts(
    logs: Sequence[Path], features: int | None, classes: int | None, most: int = _MOST
) -> Logged:
    """Accounts of logs that hold features and answers, one question a row.

    Logs of more than 30 days are cut into months, and what is left over is not used: an account
    counts once in each month in which it asks.

    Args:
        logs: JSON lines or Parquet, see `dpsd.guard.offline.logs`.
        features: that the served model has; None: as many as the first row.
        classes: that it knows; None: as many as the first row, or 1 where there are no answers.
        most: numbers to hold; beyond that some accounts, drawn by a hash, stand for all.

    Raises:
        UserError: unreadable logs, no features or answers, or those of another model.
    """
    with open_logs(logs) as (con, columns):
        needed = ("features",) if classes is None else ("features", "answers")
        missing = [name for name in needed if name not in columns]
        if missing:
            raise UserError(f"{logs[0]}: no column {missing[0]!r}, and a guard is calibrated on "
                            f"{' and '.join(needed)} of honest questions")  # fmt: skip
        answers = _answers(columns)
        found: Any = con.execute("SELECT count(*), min(seconds), max(seconds) FROM logs")
        count, first, last = found.fetchall()[0]
        if not count:
            raise UserError(f"{logs[0]}: no questions")
        found = con.execute(
            "SELECT len(features), len(answers) FROM "
            f"(SELECT features, {answers} FROM logs LIMIT 1)"
        )
        own = found.fetchall()[0]
        features, classes = features or own[0] or 1, classes or own[1] or 1
        months = int((last - first) // _MONTH)
        end = first + months * _MONTH if months else last + 1
        every = -(-count * (features + classes) // most)
        more = ", hashes" if "hashes" in columns else ""
        found = con.sql(
            f"SELECT account, floor((seconds - {first}) / {_MONTH}) AS month, seconds, features, "
            f"{answers}{more} FROM logs WHERE seconds < {end} AND hash(account) % {every} = 0 "
            "ORDER BY account, seconds"
        )
        parts = [_part(batch, features, classes) for batch in found.to_arrow_reader(_BATCH)]
        days = min(30.0, (last - first) / 86_400)
    if not parts:  # the hash chose nobody
        raise UserError(f"{logs[0]}: too few accounts to draw some; accepted: smaller logs")
    seen, said, hashes, at, who = (np.concatenate(part) for part in zip(*parts, strict=True))
    own = hashes if len(hashes) else None
    return Logged(seen, said, own, _streams(at, who), days, 1 - 1 / every)


def logged_questions(logs: Sequence[Path], most: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """Features float32 [N, F] and answers float32 [N, K] of rows drawn at random, whose they are.

    Args:
        logs: as for `logged_accounts`.
        most: rows.

    Raises:
        UserError: unreadable logs, no features, or rows of unlike lengths.
    """
    with open_logs(logs) as (con, columns):
        if "features" not in columns:
            raise UserError(f"{logs[0]}: no column 'features'")
        answers = _answers(columns)
        found = con.sql(f"SELECT features, {answers} FROM logs USING SAMPLE reservoir({most} ROWS)")
        rows = found.to_arrow_table()
    if not rows.num_rows:
        raise UserError(f"{logs[0]}: no questions")
    return lists(rows["features"], "features"), lists(rows["answers"], "answers")


def _answers(columns: Collection[str]) -> str:
    """The column, or one class where the logs have none."""
    return "answers" if "answers" in columns else "[1.0::FLOAT] AS answers"


def _part(batch: Any, features: int, classes: int) -> tuple[NDArray[Any], ...]:
    """Features, answers, hashes, times, and a name of account and month, of some rows."""
    columns = {name: batch.column(i) for i, name in enumerate(batch.schema.names)}
    seen, said = lists(columns["features"], "features"), lists(columns["answers"], "answers")
    for name, rows, wanted in (("features", seen, features), ("answers", said, classes)):
        if rows.shape[1] != wanted:
            raise UserError(f"logs: {name} of {rows.shape[1]:,} numbers; accepted: {wanted:,}, as "
                            "the model or the first row has")  # fmt: skip
    if not (np.isfinite(seen).all() and np.isfinite(said).all()):
        raise UserError("logs: features or answers that are no numbers")
    who = np.array([f"{account} {month}" for account, month in zip(
        columns["account"].to_pylist(), columns["month"].to_pylist(), strict=True)])  # fmt: skip
    hashes = columns["hashes"].to_numpy(zero_copy_only=False) if "hashes" in columns else []
    at = columns["seconds"].to_numpy().astype(np.float64)
    return seen, said, np.asarray(hashes, np.uint64), at, who


def _streams(at: NDArray[np.float64], who: NDArray[Any]) -> list[Stream]:
    """The rows in a row that have one name."""
    starts = np.flatnonzero(np.r_[True, who[1:] != who[:-1]])
    return [Stream(np.arange(a, b), at[a:b], owner=str(who[a]).rpartition(" ")[0])
            for a, b in zip(starts, np.r_[starts[1:], len(who)], strict=True)]  # fmt: skip
