"""Access logs as one table of DuckDB: JSON lines and Parquet, read in parts, never held whole."""

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dpsd.errors import UserError
from dpsd.imports import brief

if TYPE_CHECKING:
    import duckdb

_JSON = (".jsonl", ".ndjson", ".json", ".jsonl.gz", ".ndjson.gz", ".json.gz")
_PARQUET = (".parquet", ".pq")
_WANTED = {"account": None, "at": None, "network": "NULL::VARCHAR", "agent": "NULL::VARCHAR",
           "images": "1", "features": None, "answers": None, "hashes": None}  # fmt: skip


@contextmanager
def open_logs(
    logs: Sequence[Path], *, memory_mb: int = 2_000, threads: int = 2, folder: Path | None = None
) -> Iterator[tuple["duckdb.DuckDBPyConnection", set[str]]]:
    """A connection with the view `logs`, and the columns that the files have.

    The view has `account` (any type), `seconds` (since 1970), `images`, `network`, `agent`, and
    `features`, `answers` and `hashes` where the files have them. Rows without account or time are
    left out of it, and stand in `everything`.

    Args:
        logs: files of one kind, JSON lines or Parquet.
        memory_mb: limit of DuckDB; what does not fit goes to disk.
        threads: of DuckDB.
        folder: for what does not fit; None: the system's. It is emptied at the end.

    Raises:
        UserError: a file that is missing or of another kind, or columns that are missing.
    """
    try:
        import duckdb
    except ImportError as e:
        raise UserError("scan: needs DuckDB: pip install dpsd[serve]") from e
    reader = _reader(logs)
    with tempfile.TemporaryDirectory(prefix="dpsd-scan-", dir=folder) as spill:
        con = duckdb.connect(config={
            "memory_limit": f"{memory_mb}MB", "threads": threads, "temp_directory": spill,
            "preserve_insertion_order": False,
        })  # fmt: skip
        try:
            found = con.execute(f"DESCRIBE SELECT * FROM {reader}").fetchall()
            types = {str(row[0]): str(row[1]) for row in found}
            for name in ("account", "at"):
                if name not in types:
                    have = ", ".join(types) or "none"
                    raise UserError(f"{logs[0]}: no column {name!r}; its columns: {have}")
            columns = [_column(name, types) for name in _WANTED]
            con.execute(f"CREATE VIEW logs AS SELECT * FROM (SELECT "
                        f"{', '.join(c for c in columns if c)} FROM {reader}) "
                        "WHERE account IS NOT NULL AND isfinite(seconds) "
                        "AND images > 0")  # fmt: skip
            con.execute(f"CREATE VIEW everything AS SELECT * FROM {reader}")
            yield con, set(types)
        except duckdb.Error as e:
            raise UserError(f"{logs[0]}: cannot be read ({brief(e)})") from e
        finally:
            con.close()


def _reader(logs: Sequence[Path]) -> str:
    """The table function that reads the files."""
    for path in logs:
        if not path.is_file():
            raise UserError(f"{path}: no such file")
    kinds = {_kind(path) for path in logs}
    if len(kinds) != 1 or "" in kinds:
        raise UserError(f"{logs[0]}: accepted: files of one kind, {', '.join(_JSON[:2])} or "
                        f"{_PARQUET[0]}")  # fmt: skip
    names = ", ".join("'" + str(path).replace("'", "''") + "'" for path in logs)
    if kinds == {"parquet"}:
        return f"read_parquet([{names}], union_by_name = true)"
    return (f"read_json([{names}], format = 'newline_delimited', union_by_name = true, "
            "ignore_errors = true)")  # fmt: skip


def _kind(path: Path) -> str:
    name = path.name.lower()
    return "json" if name.endswith(_JSON) else "parquet" if name.endswith(_PARQUET) else ""


def _column(name: str, types: dict[str, str]) -> str:
    """How a column is read; empty where it is left out."""
    kind = types.get(name)
    if kind is None:
        return f"{_WANTED[name]} AS {name}" if _WANTED[name] else ""
    if name == "at":
        numeric = any(t in kind for t in ("INT", "DOUBLE", "FLOAT", "DECIMAL"))
        return ('TRY_CAST("at" AS DOUBLE) AS seconds' if numeric
                else 'epoch(TRY_CAST("at" AS TIMESTAMPTZ)) AS seconds')  # fmt: skip
    if name == "hashes":
        return "CAST(hashes AS UBIGINT) AS hashes"
    if name in ("features", "answers"):
        return f"CAST({name} AS FLOAT[]) AS {name}"
    if name == "images":
        return "COALESCE(TRY_CAST(images AS BIGINT), 1) AS images"
    return name if name == "account" else f"CAST({name} AS VARCHAR) AS {name}"


def lists(column: Any, name: str) -> Any:
    """A column of lists as float32 [B, F].

    Args:
        column: of Arrow, lists of floats.
        name: for errors.

    Raises:
        UserError: lists that are missing, or of unlike lengths.
    """
    import numpy as np
    import pyarrow.compute as pc

    count = len(column)
    flat = column.combine_chunks().flatten() if hasattr(column, "combine_chunks") else (
        column.flatten()
    )  # fmt: skip
    widths = np.unique(pc.list_value_length(column).to_numpy(zero_copy_only=False))
    if column.null_count or len(widths) != 1 or not len(flat):
        raise UserError(f"{name}: lists are missing or of unlike lengths; accepted: one length")
    values = flat.to_numpy(zero_copy_only=False).astype(np.float32, copy=False)
    return values.reshape(count, -1)
