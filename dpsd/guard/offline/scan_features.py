"""What features of a log say: how much of the model an account covers, and a guard's evidence."""

from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dpsd.guard.detection.detectors import statistics
from dpsd.guard.detection.evidence import Evidence
from dpsd.guard.detection.reference import Reference
from dpsd.guard.detection.sketch import Sketch
from dpsd.guard.offline.logs import lists

if TYPE_CHECKING:
    import duckdb

Floats = NDArray[np.float64]
_BITS = 12  # 4,096 buckets
_BATCH = 50_000  # rows
_CENTRE = 20_000  # rows from which buckets are laid


def coverage(con: "duckdb.DuckDBPyConnection", count: int, seed: int = 0) -> Floats:
    """Buckets of features that each account meets, over what chance gives it: float64 [count].

    Chance: as many questions, drawn from all accounts' questions together (after B4B, Dubinski et
    al. 2023). Buckets are signs of random projections.

    Args:
        con: with the tables `logs` and `people`.
        count: of accounts.
        seed: of the projections.
    """
    first: Any = con.sql(f"SELECT features FROM logs USING SAMPLE reservoir({_CENTRE} ROWS) "
                         "REPEATABLE (0)").to_arrow_table()  # fmt: skip
    some = lists(first["features"], "features")
    draw = np.random.default_rng(seed).normal(size=(some.shape[1], _BITS))
    planes: NDArray[np.float32] = draw.astype(np.float32)
    offsets: NDArray[np.float32] = np.median(some @ planes, axis=0)
    met = np.zeros((count, 2**_BITS // 8), np.uint8)
    frequency, asked = np.zeros(2**_BITS), np.zeros(count)
    for batch in _batches(con, "place, features", ""):
        place = batch["place"].to_numpy()
        bucket = (lists(batch["features"], "features") @ planes > offsets) @ (1 << np.arange(_BITS))
        np.bitwise_or.at(met, (place, bucket >> 3), (1 << (bucket & 7)).astype(np.uint8))
        frequency += np.bincount(bucket, minlength=2**_BITS)
        asked += np.bincount(place, minlength=count)
    share = frequency / frequency.sum()
    numbers, which = np.unique(asked, return_inverse=True)
    by_chance = np.array([-np.expm1(n * np.log1p(-share[share < 1])).sum() for n in numbers])
    by_chance = np.maximum(by_chance, 1)
    buckets = np.array([np.unpackbits(row).sum() for row in met], np.float64)
    return np.asarray(buckets / by_chance[which])


def evidence_of(
    con: "duckdb.DuckDBPyConnection", count: int, reference: Reference, has: Collection[str]
) -> Floats:
    """The highest suspicion that each account reaches, as a running guard has it: float64 [count].

    Args:
        con: with the tables `logs` and `people`.
        count: of accounts.
        reference: what honest traffic looks like.
        has: columns of the logs: of `answers` and `hashes`, those are read that are there.
    """
    highest = np.zeros(count)
    own = [name for name in ("answers", "hashes") if name in has]
    columns = ", ".join(["place, seconds, features", *own])
    last, sketch, evidence = -1, Sketch(), Evidence()
    for batch in _batches(con, columns, "ORDER BY place, seconds"):
        place, at = batch["place"].to_numpy(), batch["seconds"].to_numpy()
        features = lists(batch["features"], "features")
        said, hashes = np.ones((len(at), 1), np.float32), None
        if "answers" in own:
            said = lists(batch["answers"], "answers")
        if "hashes" in own:
            hashes = batch["hashes"].to_numpy(zero_copy_only=False).astype(np.uint64)
        rows = reference.benign.rows(features, said, hashes)
        ends = np.flatnonzero(np.r_[place[1:] != place[:-1], True]) + 1
        for start, end in zip([0, *ends[:-1].tolist()], ends.tolist(), strict=True):
            account = int(place[start])
            if account != last:
                last, sketch, evidence = account, Sketch(), Evidence()
            while start < end:
                stop = min(end, start + sketch.room)
                sketch.asked_at(at[start:stop])
                sketch.add(rows.pick(slice(start, stop)), True, reference.benign.spread)
                start = stop
                if sketch.room == 0:
                    values = statistics(sketch, reference.benign)
                    evidence = reference.after(evidence, values)
                    highest[account] = max(highest[account], reference.suspicion(evidence))
                    sketch.close_window()
    return highest


def _batches(con: "duckdb.DuckDBPyConnection", columns: str, order: str) -> Iterator[Any]:
    """Rows of `logs` with the places of their accounts, in tables of Arrow."""
    found: Any = con.sql(f"SELECT {columns} FROM logs JOIN people USING (account) {order}")
    for batch in found.to_arrow_reader(_BATCH):
        yield {name: batch.column(i) for i, name in enumerate(batch.schema.names)}
