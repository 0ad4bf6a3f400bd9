"""The guard's memory with many accounts: bytes each, and what a killed service has lost.

A child process makes the accounts with whole sketches, charges each once and kills itself with the
last charge. The parent opens the file again.
"""

import multiprocessing as mp
import os
import signal
import tempfile
import time
from argparse import Namespace
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from bench_tables.guard import GUARD
from bench_tables.jobs import Job
from dpsd.guard.detection.sketch import Sketch
from dpsd.guard.storage.sqlite_store import SqliteStore
from dpsd.guard.storage.store import Account, Watched

ACCOUNTS = 100_000
_AT_ONCE, _DAY = 1_000, 1e9


def jobs(args: Namespace) -> Iterator[Job]:
    """One file."""
    count = ACCOUNTS // args.shrink
    yield Job(GUARD / "store.json", {"cell": "store", "accounts": count}, partial(measure, count))


def measure(count: int) -> dict[str, Any]:
    """Make, kill, open, count."""
    with tempfile.TemporaryDirectory() as folder:
        path, start = Path(folder) / "guard.sqlite", time.perf_counter()
        child = mp.get_context("spawn").Process(target=_fill, args=(path, count))
        child.start()
        child.join()
        made, start = time.perf_counter() - start, time.perf_counter()
        store = SqliteStore(path)
        opened = time.perf_counter() - start
        accounts = store.accounts()
        lost = sum(store.spent(a.id) != 1 for a in accounts)
        size = sum(f.stat().st_size for f in path.parent.iterdir())
        some = np.random.default_rng(0).permutation(count)[:1_000]
        start = time.perf_counter()
        for i in some:
            store.by_id(_name(int(i)))
            store.watched(_name(int(i)))
            store.charge(_name(int(i)), 1, _DAY, 100)
        each = (time.perf_counter() - start) / len(some)
        store.close()
    return {
        "killed": child.exitcode == -signal.SIGKILL, "found": len(accounts),
        "charges_lost": lost + count - len(accounts), "sketch_bytes": len(Sketch().to_bytes()),
        "file_bytes_an_account": size / count, "seconds_to_make": made,
        "seconds_to_open": opened, "milliseconds_a_question": 1000 * each,
    }  # fmt: skip


def _fill(path: Path, count: int) -> None:
    store = SqliteStore(path)
    sketch = np.random.default_rng(0).bytes(len(Sketch().to_bytes()))  # nothing to compress
    for start in range(0, count, _AT_ONCE):
        with store.together():
            for i in range(start, min(start + _AT_ONCE, count)):
                store.add(Account(_name(i), f"account {i}", "open", "active", "0" * 64, float(i)))
                store.watch(Watched(_name(i), sketch))
    for i in range(count):
        store.charge(_name(i), 1, _DAY, 100)
    os.kill(os.getpid(), signal.SIGKILL)


def _name(number: int) -> str:
    return f"{number:016x}"
