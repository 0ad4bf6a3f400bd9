"""The append-only record of every release, kept with the teacher.

`ledger.jsonl` holds one JSON object a line. Each has a checksum over itself and the line before.
`ledger.hashes` holds 16 bytes for each image asked, in the same order. The ledger appends to both,
flushes and syncs them under a file lock before an answer is returned. Both are private.
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

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from dpsd.errors import UserError
from dpsd.privacy.events import OpenRelease, Release, event_facts, event_from_facts

HASH_BYTES = 16
Hashes = NDArray[np.void]


def image_hashes(images: Tensor) -> Hashes:
    """A 16-byte BLAKE2b hash of each image; images uint8 [B, C, H, W] -> void16 [B]."""
    flat = images.flatten(1).contiguous().numpy()
    digests = b"".join(hashlib.blake2b(row, digest_size=HASH_BYTES).digest() for row in flat)
    return np.frombuffer(digests, dtype=f"V{HASH_BYTES}")


def labels_run(run: str) -> str:
    """The name under which the ledger holds a run's label histogram, in a line of its own."""
    return f"{run} labels"


def is_labels_run(name: str) -> bool:
    """Whether a name in the ledger is a label histogram's. A run's own name holds no blank."""
    return " " in name


@dataclass(frozen=True)
class RunRecord:
    """What one run may release from a teacher, and has released, as the ledger holds it.

    Attributes:
        run: its id.
        event: one answer; for `dp_sgd` the whole training, which counts once for all runs of one
            teacher.
        cap: answers at most.
        asks_per_image: at most.
        seeded_noise: the noise can be predicted. Nothing is guaranteed then.
        started: when, as text.
        unit: the one for which the run's noise was made.
        teacher: the one whose training by DP-SGD is the event; None for all other events.
        answers: released so far.
    """

    run: str
    event: Release
    cap: int
    asks_per_image: int = 1
    seeded_noise: bool = False
    started: str = ""
    unit: str = "answer"
    teacher: str | None = None
    answers: int = 0


class Ledger:
    """The master ledger in a teacher's folder.

    Args:
        folder: the teacher's folder; created files are `ledger.jsonl` and `ledger.hashes`.
        teacher: the teacher's UUID.

    Raises:
        UserError: damaged (checksum) or of another teacher.
    """

    def __init__(self, folder: Path, teacher: str) -> None:
        self.path = folder / "ledger.jsonl"
        self._hashes = folder / "ledger.hashes"
        self.teacher = teacher
        self._entries: list[dict[str, Any]] = []
        self._read, self._chain = 0, ""  # the part of the file that is parsed and verified
        folder.mkdir(parents=True, exist_ok=True)
        with self._locked():
            self._cut_torn_line()
            if not self.path.exists():
                if self._hashes.exists():
                    raise UserError(
                        f"ledger {self.path}: missing or without a whole line, but "
                        f"{self._hashes.name} beside it holds answers; restore it"
                    )
                self._append({"kind": "ledger", "version": 1, "teacher": teacher})
        first = self.entries()[0]
        if first.get("teacher") != teacher:
            raise UserError(
                f"ledger {self.path}: belongs to teacher {first.get('teacher')}, not {teacher}"
            )

    def open_run(self, record: RunRecord) -> None:
        """Enter a run and what it may release, before its first answer. Idempotent."""
        trained = {} if record.teacher is None else {"teacher": record.teacher}
        with self._locked():
            if any(e["kind"] == "run" and e["run"] == record.run for e in self.entries()):
                return
            self._append(
                {"kind": "run", "run": record.run, "event": event_facts(record.event),
                 "cap": record.cap, "asks_per_image": record.asks_per_image,
                 "seeded_noise": record.seeded_noise, "started": record.started,
                 "unit": record.unit} | trained
            )  # fmt: skip

    def charge(self, run: str, position: int, hashes: Hashes) -> int:
        """Charge answers to images, durably, before they are given.

        Args:
            run: the run's id, entered by `open_run`.
            position: answers charged to the run before. It guards against a rewound stream.
            hashes: of the images.

        Returns:
            Answers charged to the run so far, these included.
        """
        with self._locked():
            charged = self.charged(run)
            if position != charged:
                raise UserError(
                    f"ledger {self.path}: run {run} stands at {charged} answers, not {position}; "
                    "another process may be using the run"
                )
            raw = hashes.tobytes()
            offset = self._hashes.stat().st_size if self._hashes.exists() else 0
            _append_synced(self._hashes, raw)
            self._append(
                {"kind": "answers", "run": run, "n": len(hashes), "position": position,
                 "hashes_offset": offset,
                 "hashes_digest": hashlib.blake2b(raw, digest_size=16).hexdigest()}
            )  # fmt: skip
            return charged + len(hashes)

    def charged(self, run: str) -> int:
        """Answers charged to a run."""
        return sum(e["n"] for e in self.entries() if e["kind"] == "answers" and e["run"] == run)

    def hashes(self, run: str) -> Hashes:
        """Hashes of the images that a run asked, in order, void16 [n]."""
        parts = []
        for e in self.entries():
            if e["kind"] != "answers" or e["run"] != run:
                continue
            with self._hashes.open("rb") as f:
                f.seek(e["hashes_offset"])
                raw = f.read(e["n"] * HASH_BYTES)
            if hashlib.blake2b(raw, digest_size=16).hexdigest() != e["hashes_digest"]:
                raise UserError(f"ledger {self._hashes}: damaged at byte {e['hashes_offset']}")
            parts.append(np.frombuffer(raw, dtype=f"V{HASH_BYTES}"))
        return np.concatenate(parts) if parts else np.empty(0, dtype=f"V{HASH_BYTES}")

    def runs(self) -> list[RunRecord]:
        """All runs on this teacher, oldest first."""
        return [self._record(e) for e in self.entries() if e["kind"] == "run"]

    def _record(self, e: dict[str, Any]) -> RunRecord:
        # Older runs could test their votes against a threshold. They count as open, so never as
        # cheaper than they were.
        event = OpenRelease() if "test" in e else event_from_facts(e["event"])
        return RunRecord(
            e["run"], event, e["cap"], e["asks_per_image"], e["seeded_noise"], e["started"],
            e.get("unit", "answer"), e.get("teacher"), self.charged(e["run"]),
        )  # fmt: skip

    def entries(self) -> list[dict[str, Any]]:
        """All entries, oldest first. Their checksums are verified.

        Raises:
            UserError: a line was changed, removed or is unreadable.
        """
        try:
            with self.path.open("rb") as f:
                f.seek(self._read)
                raw = f.read()
        except OSError as e:
            raise UserError(f"ledger {self.path}: cannot be read: {e}") from e
        for line in raw.splitlines():
            number = len(self._entries) + 1
            try:
                entry = json.loads(line)
                claimed = entry.pop("checksum")
            except (ValueError, KeyError, AttributeError, TypeError) as e:
                raise UserError(f"ledger {self.path}: line {number} is damaged") from e
            chain = _checksum(self._chain, entry)
            if claimed != chain:
                raise UserError(f"ledger {self.path}: line {number} fails its checksum")
            self._chain = chain
            self._entries.append(entry)
        self._read += len(raw)
        if not self._entries:
            raise UserError(f"ledger {self.path}: empty")
        return self._entries

    def _append(self, entry: dict[str, Any]) -> None:
        if self.path.exists():
            self.entries()
        line = json.dumps(entry | {"checksum": _checksum(self._chain, entry)}) + "\n"
        _append_synced(self.path, line.encode())

    def _cut_torn_line(self) -> None:
        """Drop an unfinished last line. Its answers were never given."""
        if not self.path.exists():
            return
        raw = self.path.read_bytes()
        whole = raw.rfind(b"\n") + 1
        if whole == 0:
            self.path.unlink()
        elif whole < len(raw):
            with self.path.open("r+b") as f:
                f.truncate(whole)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with (self.path.parent / "ledger.lock").open("w") as f:
            fcntl.flock(f, fcntl.LOCK_EX)
            yield


def charge_labels(ledger: Ledger, run: str, event: Release, *, seeded: bool, unit: str) -> bool:
    """Charge the label histogram of a run, once, in a ledger line of its own.

    Returns:
        False where it was charged before: whoever draws it again would release it uncharged.
    """
    name = labels_run(run)
    ledger.open_run(RunRecord(name, event, cap=1, seeded_noise=seeded, unit=unit))
    if ledger.charged(name):
        return False
    ledger.charge(name, 0, np.frombuffer(b"label histogram ", f"V{HASH_BYTES}"))
    return True


def _checksum(chain: str, entry: dict[str, Any]) -> str:
    text = chain + json.dumps(entry, sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def _append_synced(path: Path, raw: bytes) -> None:
    with path.open("ab") as f:
        f.write(raw)
        f.flush()
        os.fsync(f.fileno())
