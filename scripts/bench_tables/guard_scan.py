"""`dpsd guard scan` on large access logs: seconds, memory, and whether a planted account is found.

The logs are made by DuckDB in a temporary folder and scanned by the command, in a process of its
own. One account asks every 20 seconds round the clock; the others ask at random, few of them much.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from argparse import Namespace
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import duckdb

from bench_tables.guard import GUARD
from bench_tables.jobs import Job, chosen

_DAY, _MONTH, _EVERY = 86_400, 30 * 86_400, 20
CELLS: dict[str, dict[str, Any]] = {
    "scan-times": {"rows": 100_000_000, "accounts": 100_000, "features": 0, "kind": "parquet"},
    "scan-features": {"rows": 10_000_000, "accounts": 20_000, "features": 32, "kind": "parquet"},
    "scan-lines": {"rows": 10_000_000, "accounts": 20_000, "features": 0, "kind": "jsonl"},
}
"""`features`: floats in each row; 0: account and time alone."""
_CLOCK = "clock"  # the account that is to be found


def jobs(args: Namespace) -> Iterator[Job]:
    """One file a log."""
    for name, cell, seed in chosen({k: v | {"seeds": [0]} for k, v in CELLS.items()}, args):
        small = cell | {"rows": cell["rows"] // args.shrink}
        yield Job(GUARD / f"{name}.json", {"cell": name, "seed": seed} | cell,
                  partial(measure, small))  # fmt: skip


def measure(cell: dict[str, Any]) -> dict[str, Any]:
    """Make the log, scan it, and look for the planted account."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        log = folder / f"log.{cell['kind']}"
        start = time.perf_counter()
        _write(log, cell)
        made, start = time.perf_counter() - start, time.perf_counter()
        command = [sys.executable, "-m", "dpsd", "guard", "scan", str(log), "--out",
                   str(folder / "found")] + ["--features"] * bool(cell["features"])  # fmt: skip
        child = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        _, status, used = os.wait4(child.pid, 0)
        seconds = time.perf_counter() - start
        assert status == 0, f"scan ended with {status}"
        report = json.loads((folder / "found" / "report.json").read_text())
        size = log.stat().st_size
    order = [found["account"] for found in report["top"]]
    return {
        "scanned": report["rows"], "log_bytes": size, "seconds_to_make": made, "seconds": seconds,
        "processor_seconds": used.ru_utime + used.ru_stime, "peak_bytes": used.ru_maxrss * 1024,
        "place": order.index(_CLOCK) + 1 if _CLOCK in order else None,
    }  # fmt: skip


def _write(log: Path, cell: dict[str, Any]) -> None:
    planted = _MONTH // _EVERY
    how = "(FORMAT parquet)" if cell["kind"] == "parquet" else "(FORMAT json)"
    drawn = "lambda x: CAST(random() + 0 * x AS FLOAT)"  # without x all rows would share one list
    lists = f", list_transform(range({cell['features']}), {drawn}) AS features"
    lists = lists if cell["features"] else ""
    con = duckdb.connect(config={"memory_limit": "2GB", "preserve_insertion_order": False,
                                 "temp_directory": str(log.parent / "spill")})  # fmt: skip
    con.execute(f"""
        COPY (
          SELECT 'a' || CAST(floor(pow(random(), 2) * {cell["accounts"]}) AS BIGINT) AS account,
                 1.7e9 + random() * {_MONTH} AS at {lists}
          FROM range({max(cell["rows"] - planted, 0)})
          UNION ALL
          SELECT '{_CLOCK}' AS account, 1.7e9 + {_EVERY} * range AS at {lists}
          FROM range({planted})
        ) TO '{log}' {how}
    """)
    con.close()
