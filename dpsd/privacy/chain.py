"""A file of JSON lines that can only grow: each line has a checksum over itself and those before.

The checksum of the last line is the chain's head: whoever knows it and the number of lines can
tell whether a line was changed, removed, swapped or cut off. `<name>.head.json` beside the file
holds both. It is written after each line, so that it may be one line behind, never ahead.
"""

import fcntl
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dpsd.errors import UserError
from dpsd.files import read_json, sync, whole_file

Entry = dict[str, Any]
_decode = json.JSONDecoder().raw_decode
_BETWEEN = ', "checksum": "'  # the entry and its checksum


@dataclass(frozen=True)
class Head:
    """Number of lines and the last one's checksum. It covers all lines."""

    entries: int
    checksum: str


class Chain:
    """The lines of one file. Several processes may use it; each takes the lock to append.

    Args:
        path: of the file. Nothing is made before `append`.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.head_path = path, path.with_suffix(".head.json")
        self.entries: list[Entry] = []
        self._sums: list[str] = []
        self._read = 0  # bytes that are parsed and verified

    @property
    def head(self) -> Head:
        """Of the lines that were read."""
        return Head(len(self._sums), self._sums[-1] if self._sums else "")

    def holds(self, head: Head) -> bool:
        """Whether the chain had this head when it was as long."""
        if head.entries == 0:
            return head.checksum == ""
        within = 0 < head.entries <= len(self._sums)
        return within and self._sums[head.entries - 1] == head.checksum

    def read(self) -> None:
        """Read and verify what was appended since.

        A last line without an end is left out: another process may be writing it.

        Raises:
            UserError: a line was changed, removed, swapped or is unreadable.
        """
        try:
            with self.path.open("rb") as f:
                f.seek(self._read)
                raw = f.read()
        except OSError as e:
            raise UserError(f"ledger {self.path}: cannot be read: {e}") from e
        raw = raw[: raw.rfind(b"\n") + 1]
        chain = self.head.checksum
        for line in raw.split(b"\n")[:-1]:
            number = len(self.entries) + 1
            try:
                text = line.decode()
                entry, end = _decode(text)
                claimed = entry.pop("checksum")
                whole = end == len(text)
            except (ValueError, KeyError, AttributeError, TypeError, RecursionError) as e:
                raise UserError(f"ledger {self.path}: line {number} is damaged") from e
            if not whole or not _verifies(chain, text, entry, claimed):
                raise UserError(f"ledger {self.path}: line {number} fails its checksum")
            self.entries.append(entry)
            self._sums.append(claimed)
            chain = claimed
        self._read += len(raw)

    def append(self, entry: Entry) -> None:
        """Write one line and the new head, durably. The caller holds the lock and has read all."""
        if self.path.exists() and self.path.stat().st_size != self._read:
            raise UserError(f"ledger {self.path}: was cut or grew while it was in use; restore it")
        if self.path.exists() and self.check_head() != self.head:
            self.write_head()  # a process was killed before it did
        text = json.dumps(entry, sort_keys=True)
        line = f'{text[:-1]}{_BETWEEN}{_checksum(self.head.checksum, text)}"}}\n'
        append_synced(self.path, line.encode())
        self.read()
        self.write_head()

    def cut_torn_line(self) -> None:
        """Drop an unfinished last line. What it speaks of was never given."""
        if not self.path.exists():
            return
        with self.path.open("r+b") as f:
            size = f.seek(0, os.SEEK_END)
            f.seek(max(0, size - 1))
            if f.read() not in (b"", b"\n"):
                f.seek(0)
                f.truncate(f.read().rfind(b"\n") + 1)

    def check_head(self) -> Head:
        """The head beside the file; refuses a file that has lost whole lines at its end.

        Raises:
            UserError: the head is missing, unreadable, or not that of the last line or of the one
                before.
        """
        head = self.known_head()
        if not self.holds(head) or len(self.entries) > head.entries + 1:
            raise UserError(
                f"ledger {self.path}: holds {len(self.entries)} lines, but {self.head_path.name} "
                f"beside it names line {head.entries}, which is not the last; restore both"
            )
        return head

    def known_head(self) -> Head:
        """The head beside the file.

        Raises:
            UserError: it is missing or unreadable.
        """
        return self._head_file()[0]

    def releases(self) -> list[str]:
        """Release folders whose statements name a head of this chain.

        Raises:
            UserError: the head file is missing or unreadable.
        """
        return self._head_file()[1]

    def _head_file(self) -> tuple[Head, list[str]]:
        """Head and releases in the file beside the chain."""
        try:
            facts = read_json(self.head_path)
            head, releases = Head(facts["entries"], facts["checksum"]), facts["releases"]
            if (type(head.entries), type(head.checksum), type(releases)) != (int, str, list):
                raise TypeError("other types than were written")
            return head, [str(p) for p in releases]
        except (UserError, LookupError, TypeError, RecursionError) as e:
            raise UserError(
                f"ledger {self.head_path}: missing or damaged, so that nobody can tell whether "
                f"lines of {self.path.name} were cut off; restore both"
            ) from e

    def write_head(self, release: Path | None = None) -> None:
        """Write the head, and remember one release folder more."""
        known = self.releases() if self.head_path.exists() else []
        if release is not None and str(release.absolute()) not in known:
            known.append(str(release.absolute()))
        facts = {"entries": self.head.entries, "checksum": self.head.checksum, "releases": known}
        with whole_file(self.head_path) as partial:
            partial.write_text(json.dumps(facts) + "\n")
            sync(partial)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Alone among processes."""
        with self.path.with_suffix(".lock").open("w") as f:
            fcntl.flock(f, fcntl.LOCK_EX)
            yield


def append_synced(path: Path, raw: bytes) -> None:
    """Append bytes and wait until the disk holds them."""
    with path.open("ab") as f:
        f.write(raw)
        f.flush()
        os.fsync(f.fileno())


def _verifies(chain: str, text: str, entry: Entry, claimed: Any) -> bool:
    """Whether a line's checksum is right. Older versions wrote the keys in another order."""
    body, between, _ = text.rpartition(_BETWEEN)
    if between and claimed == _checksum(chain, body + "}"):
        return True
    return bool(claimed == _checksum(chain, json.dumps(entry, sort_keys=True)))


def _checksum(chain: str, text: str) -> str:
    return hashlib.blake2b((chain + text).encode(), digest_size=16).hexdigest()
