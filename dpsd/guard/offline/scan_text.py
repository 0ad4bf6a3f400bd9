"""What a scan found, for people, programs and other operators."""

import time
from collections.abc import Iterable
from math import isfinite
from typing import Any

from dpsd.guard.indicators.sharing import Shared, hashed
from dpsd.guard.offline.scan import Found, Report
from dpsd.tables import Table


def report_text(report: Report) -> str:
    """A table of the strangest accounts, with the reasons below."""
    judged = report.alarms is not None
    rows = [
        (f.account, f"{f.images:,}", f"{f.requests:,}", _day(f.first), _day(f.last),
         f"{f.score:.1f}", "-" if f.suspicion is None else f"{f.suspicion:.2f}",
         "; ".join(f.reasons) or "-")
        for f in report.top
    ]  # fmt: skip
    columns = ("account", "images", "requests", "first", "last", "score", "suspicion", "why")
    head = (
        f"{report.rows:,} requests, {report.images:,} images, {report.accounts:,} accounts"
        + (f"; {report.skipped:,} lines without account or time" if report.skipped else "")
        + (f"; {report.alarms:,} accounts at the alarm" if judged else "")
    )
    note = "" if judged else (
        "\nA rank is no alarm: some account is always first. With --reference each account gets "
        "evidence whose false-alarm rate is known."
    )  # fmt: skip
    return f"{head}\n{Table(columns, rows, align='lrrllrrl').text()}{note}"


def as_tree(report: Report) -> dict[str, Any]:
    """For JSON: signals that say nothing are null."""
    top = [
        vars(f) | {
            "signals": {k: v if isfinite(v) else None for k, v in f.signals.items()},
            "reasons": list(f.reasons),
        }
        for f in report.top
    ]  # fmt: skip
    names = ("rows", "images", "accounts", "skipped", "alarms")
    return {"schema_version": 1} | {n: getattr(report, n) for n in names} | {"top": top}


def told(report: Report, key: bytes, *, plain: bool = False) -> list[Shared]:
    """What other operators may use of the reported accounts: of those at the alarm, if judged.

    Args:
        report: of a scan.
        key: the sharing key.
        plain: tell networks as they stand in the log.
    """
    chosen = [f for f in report.top if f.suspicion is None or f.suspicion >= 1]
    return [_told(f, (t for t in report.traces if t[0] == f.account), key, plain) for f in chosen]


def _told(
    found: Found, traces: Iterable[tuple[str, str, str, float, float, int]], key: bytes, plain: bool
) -> Shared:
    indicators = tuple(
        ("plain-network", value) if plain and kind == "network"
        else (kind, hashed(key, kind, value))
        for _, kind, value, _, _, _ in traces
    )  # fmt: skip
    span = found.last - found.first
    gap = round(span / (found.requests - 1), 3) if found.requests > 1 else 0.0
    suspicion = 0.5 if found.suspicion is None else round(found.suspicion, 3)
    return Shared(hashed(key, "account", found.account), suspicion, found.first, found.last,
                  found.images, gap, tuple(sorted(indicators)))  # fmt: skip


def _day(at: float) -> str:
    return time.strftime("%Y-%m-%d", time.gmtime(at)) if 0 <= at < 4e10 else f"{at:g}"
