"""A ledger's history and what of a budget is spent, as plain values for tables and JSON."""

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from dpsd.privacy import accounting
from dpsd.privacy.allowance import Allowance
from dpsd.privacy.composition import OPEN, Releases, together, training_of
from dpsd.privacy.ledger import Ledger
from dpsd.privacy.record import RunRecord, is_beside


def history(ledger: Ledger, unit: str, delta: float) -> dict[str, Any]:
    """All runs in a ledger, oldest first, with what all up to each one compose to.

    Args:
        ledger: a teacher's (unit answer) or a data set's.
        unit: of the composed epsilon; for `answer` an image that all runs asked.
        delta: at which it is computed.

    Returns:
        `owner`, `lines`, `checksum` (the ledger's head), `unit`, `delta`, `budgets`, and `runs`: of
        each what the ledger holds, whether it counts for the unit, and `composed_epsilon`, None
        where it is infinite.
    """
    runs, head = ledger.runs(), ledger.head
    rows = [
        r.facts()
        | {
            "counts": unit == "answer" or bool(together([r], unit)),
            "composed_epsilon": _finite(_composed(runs[: i + 1], unit, delta)),
        }
        for i, r in enumerate(runs)
    ]
    return {
        "owner": ledger.teacher, "lines": head.entries, "checksum": head.checksum, "unit": unit,
        "delta": delta, "rows": ledger.rows(),
        "budgets": [asdict(a) for a in ledger.allowances()], "runs": rows,
    }  # fmt: skip


def spending(ledger: Ledger) -> list[dict[str, Any]]:
    """Each budget in force: what is spent of it, by which runs, and what is left.

    Returns:
        For each unit `unit`, `epsilon`, `delta`, `set`, `spent` (None: infinite), `left` (epsilon
        of one more run with Gaussian noise at the same delta), and `runs`: of each `run`, `started`
        and `alone`, its own epsilon for the unit, which do not add up to `spent`.
    """
    runs = ledger.runs()
    return [_spent(a, runs) for a in {a.unit: a for a in ledger.allowances()}.values()]


def _spent(a: Allowance, runs: Sequence[RunRecord]) -> dict[str, Any]:
    counted = [r for r in runs if together([r], a.unit)]
    return asdict(a) | {
        "spent": _finite(a.spent(runs)),
        "left": a.left(runs),
        "runs": [
            {"run": r.run, "started": r.started, "route": r.route, "mechanism": r.mechanism,
             "alone": _finite(a.spent([r]))}
            for r in counted
        ],
    }  # fmt: skip


def _composed(runs: Sequence[RunRecord], unit: str, delta: float) -> float:
    if unit != "answer":
        return accounting.compose_epsilon(together(runs, unit), delta)
    asked: Releases = []
    for r in runs:
        open_ = r.seeded_noise or training_of(r) is not None or r.unit not in ("answer", "none")
        asked += [] if is_beside(r.run) else [OPEN if open_ else (r.event, r.asks_per_image)]
    return accounting.compose_epsilon(asked, delta)


def _finite(x: float) -> float | None:
    return x if math.isfinite(x) else None
