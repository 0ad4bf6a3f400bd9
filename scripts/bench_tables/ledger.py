"""Seconds and memory of opening a long ledger, as a run that goes on does."""

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
from types import SimpleNamespace
from typing import Any

import numpy as np

from bench_tables.jobs import RESULTS, ROOT, Job
from dpsd.privacy.budget import Budget
from dpsd.privacy.events import PureRelease
from dpsd.privacy.ledger import HASH_BYTES, Ledger
from dpsd.privacy.record import RunRecord

ANSWERS = 10_000_000
CHARGES = {"of_2000": 2_000, "of_500": 500}
"""Name: answers in one charge."""


def ledger_jobs(args: Namespace) -> Iterator[Job]:
    """Opening a ledger of ten million answers, in few and in many lines."""
    answers = ANSWERS // args.shrink
    yield Job(RESULTS / "ledger.json", {"answers": answers}, partial(measure, answers))


def measure(answers: int) -> dict[str, Any]:
    """Seconds and peak memory for each size of a charge; each is opened in a fresh process."""
    return {name: _measure(answers, size) for name, size in CHARGES.items()}


def _measure(answers: int, size: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        fill(folder, answers, size)
        lines, hashes = (
            (folder / f"ledger.{suffix}").stat().st_size / 2**20 for suffix in ("jsonl", "hashes")
        )
        imports, opened = _fresh_process("imports"), _fresh_process(scratch)
    assert opened["answers"] == answers // size * size
    peak = opened["peak_MiB"]
    figures = opened | {
        "charges": answers // size, "lines_MiB": lines, "hashes_MiB": hashes,
        "imports_peak_MiB": imports["peak_MiB"], "ledger_MiB": peak - imports["peak_MiB"],
    }  # fmt: skip
    print(f"{size} answers a charge: {figures}", flush=True)
    return figures


def fill(folder: Path, answers: int, size: int) -> None:
    """Charge so many answers to random hashes, without waiting for the disk."""
    rng, ledger = np.random.default_rng(0), Ledger(folder, "t")
    ledger.open_run(RunRecord("a", PureRelease(1.0), answers))
    fsync, os.fsync = os.fsync, lambda _: None
    try:
        for at in range(0, answers // size * size, size):
            ledger.charge("a", at, np.frombuffer(rng.bytes(size * HASH_BYTES), f"V{HASH_BYTES}"))
    finally:
        os.fsync = fsync


def _fresh_process(folder: str) -> dict[str, Any]:
    paths = os.pathsep.join([str(ROOT), str(ROOT / "scripts")])
    done = subprocess.run([sys.executable, "-m", "bench_tables.ledger", folder], text=True,
                          capture_output=True, check=True,
                          env=os.environ | {"PYTHONPATH": paths})  # fmt: skip
    figures: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return figures


def _open(folder: str) -> dict[str, Any]:
    """Open a ledger as a run that goes on does; `imports`: nothing beside the imports."""
    start, figures = time.perf_counter(), dict[str, Any]()
    if folder != "imports":
        opened = Ledger(Path(folder), "t")
        read = time.perf_counter()
        budget = Budget(SimpleNamespace(), "a", opened)
        done = time.perf_counter()
        figures = {"answers": budget.position, "seconds_ledger": read - start,
                   "seconds_budget": done - read, "seconds": done - start}  # fmt: skip
    return figures | {"peak_MiB": _peak()}


def _peak() -> float:
    """Peak memory of this process; `ru_maxrss` would count the process that started it too."""
    status = Path("/proc/self/status").read_text().splitlines()
    return int(next(line.split()[1] for line in status if line.startswith("VmHWM"))) / 2**10


if __name__ == "__main__":
    print(json.dumps(_open(sys.argv[1])))
