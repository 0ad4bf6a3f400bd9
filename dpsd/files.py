"""Files that are written whole or not at all, JSON, locks, and what the disk has for sure."""

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from dpsd.errors import UserError
from dpsd.imports import brief


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the folder's `lock` file; the folder must exist."""
    with (folder / "lock").open("w") as f:
        fcntl.flock(f, fcntl.LOCK_EX)
        yield


def sync(path: Path) -> None:
    """Have the disk hold a file, or a folder's list of files."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_json(path: Path, tree: dict[str, Any]) -> None:
    """Write JSON whole or not at all."""
    partial = path.with_suffix(path.suffix + ".partial")
    partial.write_text(json.dumps(tree, indent=2, allow_nan=False) + "\n")
    os.replace(partial, path)


def append_lines(path: Path, records: Sequence[dict[str, Any]]) -> None:
    """Append records to a file of JSON lines."""
    with path.open("ab+") as f:
        f.seek(max(0, f.tell() - 1))
        torn = f.read() not in (b"", b"\n")  # a process was stopped while it wrote
        f.write(b"\n" * torn + b"".join(json.dumps(r).encode() + b"\n" for r in records))


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The records of a file of JSON lines, oldest first, without those that a stop cut off."""
    found = []
    for line in path.read_text().splitlines() if path.exists() else []:
        with suppress(ValueError):
            found.append(json.loads(line))
    return found


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        UserError: the file is missing or holds no JSON.
    """
    try:
        tree: dict[str, Any] = json.loads(path.read_text())
        return tree
    except (OSError, ValueError) as e:
        raise UserError(f"{path}: cannot be read: {e}") from e


@contextmanager
def whole_file(out: Path, suffix: str = "") -> Iterator[Path]:
    """A temporary name beside `out` that becomes `out` on success and vanishes on any error."""
    partial = out.with_name(f".{out.name}.partial{suffix}")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        yield partial
        os.replace(partial, out)
    except OSError as e:
        raise UserError(f"{out}: cannot be written ({brief(e)})") from e
    finally:
        with contextlib.suppress(OSError):
            partial.unlink()
