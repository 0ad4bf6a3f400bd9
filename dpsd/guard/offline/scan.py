"""The guard's detectors on access logs, afterwards and offline.

Accounts are ranked by what they asked: how much in an hour, how regularly, round how much of the
clock, and over how much of the model. Against a reference each account also has the evidence that a
running guard would have gathered. Logs may be larger than memory: DuckDB reads them in parts.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dpsd.errors import UserError
from dpsd.guard.detection.evidence import e_value
from dpsd.guard.detection.reference import Reference
from dpsd.guard.offline.logs import open_logs
from dpsd.guard.offline.scan_features import coverage, evidence_of

if TYPE_CHECKING:
    import duckdb

Floats = NDArray[np.float64]
_ENOUGH = 8  # gaps below which nothing is said of regularity
_PASS = 10_000_000  # rows whose gaps are sorted at once
_RARE = 0.01  # share of accounts beyond which a signal is a reason

SIGNALS = {
    "rate": "up to {:,.0f} images in an hour",
    "regularity": "as regular as a clock ({:.2f} of 1)",
    "clock": "active round {:.0%} of the clock",
    "coverage": "spread over {:.2f} times as much of the model as chance",
}
"""What accounts are ranked by, each with its reason; higher is stranger."""


@dataclass(frozen=True)
class Found:
    """One account of a log.

    Attributes:
        account: as the log names it.
        requests, images: of it.
        first, last: seconds since 1970.
        signals: by name; NaN: too little to say.
        score: mean e-value of its ranks; 1 is usual, and chance gives the mean over accounts 1.
        suspicion: 1 is the alarm of a guard; None: no reference.
        reasons: for people.
    """

    account: str
    requests: int
    images: int
    first: float
    last: float
    signals: dict[str, float]
    score: float
    suspicion: float | None
    reasons: tuple[str, ...]


@dataclass(frozen=True)
class Report:
    """What a log says.

    Attributes:
        rows, images, accounts: in all.
        skipped: rows without account or time.
        alarms: accounts at the alarm; None: no reference.
        top: the strangest accounts, the strangest first.
        traces: of these: account, kind (network or agent), value, first, last, images.
    """

    rows: int
    images: int
    accounts: int
    skipped: int
    alarms: int | None
    top: tuple[Found, ...]
    traces: tuple[tuple[str, str, str, float, float, int], ...]


def scan(
    logs: Sequence[Path],
    *,
    features: bool = False,
    reference: Reference | None = None,
    most: int = 20,
    memory_mb: int = 2_000,
    threads: int = 2,
    folder: Path | None = None,
) -> Report:
    """Rank the accounts of access logs.

    Args:
        logs: JSON lines or Parquet; see docs/guard-logs.md.
        features: look at the column `features`; implied by a reference.
        reference: what honest traffic looks like; None: accounts are only ranked.
        most: accounts in the report.
        memory_mb: limit of DuckDB; what does not fit goes to disk.
        threads: of DuckDB.
        folder: for what does not fit in memory; None: the system's.

    Raises:
        UserError: logs that cannot be read, or lack a column that is asked for.
    """
    with open_logs(logs, memory_mb=memory_mb, threads=threads, folder=folder) as (con, columns):
        features = features or reference is not None
        if features and "features" not in columns:
            raise UserError(f"{logs[0]}: no column 'features'; accepted without --features")
        people = _people(con)
        names = people["account"]
        if not len(names):
            raise UserError(f"{logs[0]}: no row with an account and a time")
        signals = {
            "rate": people["rate"].astype(np.float64),
            "regularity": _regularity(con, len(names)),
            "clock": people["clock"].astype(np.float64) / 24,
        }
        if features:
            signals["coverage"] = coverage(con, len(names))
        suspicion = None
        if reference is not None:
            suspicion = evidence_of(con, len(names), reference, columns)
        return _report(con, people, signals, suspicion, most)


def _people(con: "duckdb.DuckDBPyConnection") -> dict[str, NDArray[Any]]:
    """One row for each account, in the order of `place`; also the table `people`."""
    con.execute("""
        CREATE TEMP TABLE hours AS
        SELECT account, CAST(floor(seconds / 3600) AS BIGINT) AS hour, count(*) AS requests,
               CAST(sum(images) AS BIGINT) AS images, min(seconds) AS first,
               max(seconds) AS last
        FROM logs GROUP BY 1, 2
    """)
    con.execute("""
        CREATE TEMP TABLE people AS
        WITH sums AS (
          SELECT account, CAST(sum(requests) AS BIGINT) AS requests,
                 CAST(sum(images) AS BIGINT) AS images, min(first) AS first, max(last) AS last,
                 max(images) AS rate FROM hours GROUP BY 1
        ), days AS (
          SELECT account, exp(ln(sum(n)) - sum(n * ln(n)) / sum(n)) AS clock FROM (
            SELECT account, hour % 24 AS h, CAST(sum(images) AS DOUBLE) AS n
            FROM hours GROUP BY 1, 2
          ) GROUP BY 1
        )
        SELECT CAST(row_number() OVER (ORDER BY account) - 1 AS INTEGER) AS place, * FROM sums
        JOIN days USING (account)
    """)
    con.execute("DROP TABLE hours")
    found = con.execute("""
        SELECT place, CAST(account AS VARCHAR) AS account, requests, images, first, last, rate,
               clock FROM people ORDER BY place
    """).fetchnumpy()
    return {name: np.asarray(values) for name, values in found.items()}


def _regularity(con: "duckdb.DuckDBPyConnection", count: int) -> Floats:
    """1 for a clock, near 0 for people: how alike all gaps between requests are."""
    (rows,) = con.execute("SELECT sum(requests) FROM people").fetchone() or (0,)
    passes = math.ceil(int(rows) / _PASS)
    found = np.full(count, np.nan)
    for part in range(passes):
        where = "" if passes == 1 else f"WHERE hash(account) % {passes} = {part}"
        got = con.execute(f"""
            SELECT place, 1 / (1 + spread) AS value FROM (
              SELECT account, stddev_pop(ln(gap + 0.001)) AS spread FROM (
                SELECT account, seconds - lag(seconds) OVER (
                  PARTITION BY account ORDER BY seconds
                ) AS gap FROM logs {where}
              ) WHERE gap > 0 GROUP BY account HAVING count(*) >= {_ENOUGH}
            ) JOIN people USING (account)
        """).fetchnumpy()
        found[np.asarray(got["place"])] = np.asarray(got["value"])
    return found


def _report(
    con: "duckdb.DuckDBPyConnection",
    people: dict[str, NDArray[Any]],
    signals: dict[str, Floats],
    suspicion: Floats | None,
    most: int,
) -> Report:
    p = {name: rank_p(values) for name, values in signals.items()}
    score = np.mean([e_value(values) for values in p.values()], axis=0)
    order = np.lexsort((-score, -np.zeros(len(score)) if suspicion is None else -suspicion))[:most]
    top = tuple(_found(int(i), people, signals, p, float(score[i]), suspicion) for i in order)
    images, requests = int(people["images"].sum()), int(people["requests"].sum())
    alarms = None if suspicion is None else int((suspicion >= 1).sum())
    con.execute("CREATE TEMP TABLE chosen AS SELECT account FROM people WHERE place IN "
                f"({', '.join(str(int(i)) for i in order)})")  # fmt: skip
    traces = [
        row
        for kind in ("network", "agent")
        for row in con.execute(f"""
            SELECT CAST(account AS VARCHAR), '{kind}', {kind}, min(seconds), max(seconds),
                   CAST(sum(images) AS BIGINT)
            FROM logs SEMI JOIN chosen USING (account) WHERE {kind} IS NOT NULL
            GROUP BY account, {kind} ORDER BY 1, 3
        """).fetchall()
    ]
    (lines,) = con.execute("SELECT count(*) FROM everything").fetchone() or (0,)
    skipped = int(lines) - requests
    return Report(requests, images, len(score), skipped, alarms, top, tuple(traces))


def rank_p(values: Floats) -> Floats:
    """Share of accounts whose value is at least as high; 1 where a value is missing."""
    known = np.isfinite(values)
    p = np.ones(len(values))
    ordered = np.sort(values[known])
    p[known] = (len(ordered) - np.searchsorted(ordered, values[known], "left")) / len(values)
    return p


def _found(
    i: int,
    people: dict[str, NDArray[Any]],
    signals: dict[str, Floats],
    p: dict[str, Floats],
    score: float,
    suspicion: Floats | None,
) -> Found:
    reasons = [SIGNALS[name].format(signals[name][i]) for name in signals if p[name][i] <= _RARE]
    if suspicion is not None and suspicion[i] >= 1:
        reasons.insert(0, "its questions are not those of honest accounts")
    return Found(
        str(people["account"][i]), int(people["requests"][i]), int(people["images"][i]),
        float(people["first"][i]), float(people["last"][i]),
        {name: float(values[i]) for name, values in signals.items()}, score,
        None if suspicion is None else float(suspicion[i]), tuple(reasons),
    )  # fmt: skip
