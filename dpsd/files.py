"""Files that are written whole or not at all, JSON, lines of JSON, and locks."""

import contextlib
import fcntl
import json
import os
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dpsd.errors import UserError
from dpsd.imports import brief


@contextmanager
def whole_file(out: Path, suffix: str = "") -> Iterator[Path]:
    """A temporary name beside `out`, which becomes `out` on success and vanishes on any error.

    Args:
        out: the file; its folder is made where it is missing.
        suffix: of the temporary name, for writers that look at it.

    Raises:
        UserError: the operating system refuses to write the file.
    """
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


def make_once(path: Path, content: bytes, mode: int = 0o600) -> bool:
    """Write a new file, whole; of several processes one wins. Whether this one did."""
    fresh = path.with_name(f".{path.stem}-{uuid.uuid4()}")
    with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as f:
        f.write(content)
        f.flush()
        os.fsync(f.fileno())
    try:
        os.link(fresh, path)
    except FileExistsError:
        return False
    finally:
        fresh.unlink()
    return True


def write_json(path: Path, tree: dict[str, Any]) -> None:
    """Write a JSON object, whole or not at all.

    Raises:
        UserError: the operating system refuses to write the file.
        ValueError: the tree holds inf or nan.
    """
    text = json.dumps(tree, indent=2, allow_nan=False) + "\n"
    with whole_file(path) as partial:
        partial.write_text(text)


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object of a file.

    Raises:
        UserError: the file is missing or holds no JSON.
    """
    try:
        tree: dict[str, Any] = json.loads(path.read_text())
        return tree
    except (OSError, ValueError) as e:
        raise UserError(f"{path}: cannot be read: {e}") from e


def append_lines(path: Path, records: Sequence[dict[str, Any]]) -> None:
    """Append records to a file of JSON lines, behind a line that a stopped process cut off."""
    with path.open("ab+") as f:
        f.seek(max(0, f.tell() - 1))
        cut_off = f.read() not in (b"", b"\n")
        f.write(b"\n" * cut_off + b"".join(json.dumps(r).encode() + b"\n" for r in records))


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The records of a file of JSON lines, oldest first; lines that were cut off are left out."""
    records = []
    for line in path.read_text().splitlines() if path.exists() else []:
        with contextlib.suppress(ValueError):
            records.append(json.loads(line))
    return records


def sync(path: Path) -> None:
    """Wait until the disk holds a file, or the list of files of a folder."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the folder's `lock` file, alone among processes; the folder must exist."""
    with (folder / "lock").open("w") as f:
        fcntl.flock(f, fcntl.LOCK_EX)
        yield
