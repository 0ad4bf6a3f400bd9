"""The append-only record of every release, kept with the teacher or the data set that it is about.

`ledger.jsonl` is a chain of lines (`dpsd.privacy.chain`). `ledger.hashes` holds 16 bytes for each
image asked, in the same order. The ledger appends to both, flushes and syncs them under a file lock
before an answer is returned. Both are private. The chain covers random ids and what was released,
so that its head may be published.

Hashes are written before the line that speaks of them. Until that line stands, a mark behind them
says where they begin. A process that was killed so leaves hashes with their mark, while lines that
were cut off leave hashes without one.
"""

import hashlib
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from dpsd.errors import UserError
from dpsd.files import sync
from dpsd.privacy.allowance import Allowance, refuse_beyond
from dpsd.privacy.chain import Chain, Head
from dpsd.privacy.events import Release
from dpsd.privacy.record import RunRecord, labels_run, record_from_line
from dpsd.privacy.signature import KEY_FILE

HASH_BYTES = 16
_MARK_BYTES = 9  # no multiple of HASH_BYTES
Hashes = NDArray[np.void]
_VERSION = 2  # older ledgers have no head beside them; theirs is made when they are first opened


def image_hashes(images: Tensor) -> Hashes:
    """A 16-byte BLAKE2b hash of each image; images uint8 [B, C, H, W] -> void16 [B]."""
    flat = images.flatten(1).contiguous().numpy()
    digests = b"".join(hashlib.blake2b(row, digest_size=HASH_BYTES).digest() for row in flat)
    return np.frombuffer(digests, dtype=f"V{HASH_BYTES}")


class Ledger:
    """The master ledger in a folder.

    Args:
        folder: the teacher's or the data set's; the files are made where they are missing.
        teacher: the UUID of the teacher or data set.

    Raises:
        UserError: damaged (checksum, lines or hashes cut off), or of another owner. Nothing is
            written then.
    """

    def __init__(self, folder: Path, teacher: str) -> None:
        self._chain = Chain(folder / "ledger.jsonl")
        self.path = self._chain.path
        self._hashes = folder / "ledger.hashes"
        self.teacher = teacher
        self._charged: Counter[str] = Counter()
        self._end = 0  # bytes of hashes that the lines speak of
        self._counted = 0  # lines
        self._entered: set[str] = set()
        self._may_skip = False  # hashes that no line speaks of, between lines
        if not folder.is_dir():
            folder.mkdir(parents=True, exist_ok=True)
        with self._chain.locked():
            if self.path.exists():
                self._refresh()
            if not self._chain.entries:
                self._begin()
            self._check_owner()
            self._check_whole()

    @property
    def head(self) -> Head:
        """Number of lines and checksum of the last one."""
        self._refresh()
        return self._chain.head

    def holds(self, head: Head) -> bool:
        """Whether the ledger had this head when it was as long."""
        self._refresh()
        return self._chain.holds(head)

    def open_run(self, *records: RunRecord) -> None:
        """Enter a run and what it may release, before its first answer. Idempotent.

        Args:
            records: the run, and what it releases beside its answers; entered together or not at
                all.

        Raises:
            UserError: the run is there already, and would release something else than was entered.
            BudgetError: a budget of the data set would be exceeded; nothing is entered then.
        """
        with self._locked():
            fresh = self._fresh(records)
            if fresh:
                refuse_beyond(self._allowances(), self.runs(), fresh)
            for record in fresh:
                self._append(record.line())

    def admit(self, *records: RunRecord) -> None:
        """As `open_run`, but nothing is entered: for a look before a teacher is trained."""
        fresh = self._fresh(records)
        if fresh:
            refuse_beyond(self._allowances(), self.runs(), fresh)

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
            charged = self._charged[run]
            if run not in self._entered:
                raise UserError(f"ledger {self.path}: holds no run {run}; nothing is charged to it")
            if position != charged:
                raise UserError(
                    f"ledger {self.path}: run {run} stands at {charged} answers, not {position}; "
                    "another process may be using the run"
                )
            raw = hashes.tobytes()
            self._write_hashes(raw)
            self._append(
                {"kind": "answers", "run": run, "n": len(hashes), "position": position,
                 "hashes_offset": self._end,
                 "hashes_digest": _digest(raw)}
            )  # fmt: skip
            os.truncate(self._hashes, self._end)  # drops the mark
            return self._charged[run]

    def charged(self, run: str) -> int:
        """Answers charged to a run."""
        self._refresh()
        return self._charged[run]

    def hashes(self, run: str) -> Hashes:
        """Hashes of the images that a run asked, in order, void16 [n].

        Raises:
            UserError: a hash was changed or removed.
        """
        out = np.empty(self.charged(run), dtype=f"V{HASH_BYTES}")
        lines, raw, at = list(self._answers(run)), out.view(np.uint8).data, 0
        if not len(raw):
            return out
        self._read_stretches(lines, raw)
        for e in lines:
            part = raw[at : at + e["n"] * HASH_BYTES]
            if _digest(part) != e["hashes_digest"]:
                raise UserError(f"ledger {self._hashes}: damaged at byte {e['hashes_offset']}")
            at += len(part)
        return out

    def _read_stretches(self, lines: Sequence[dict[str, Any]], raw: memoryview) -> None:
        """Read the hashes of lines into `raw`, in one go where lines follow one another."""
        starts = np.array([e["hashes_offset"] for e in lines])
        sizes = np.array([e["n"] * HASH_BYTES for e in lines])
        jumps = np.flatnonzero(starts[1:] != (starts + sizes)[:-1]) + 1
        ends, at = np.cumsum(sizes), 0
        try:
            with self._hashes.open("rb") as f:
                for first, last in pairwise([0, *jumps, len(lines)]):
                    f.seek(starts[first])
                    stretch = raw[at : ends[last - 1]]
                    f.readinto(stretch)
                    at += len(stretch)
        except OSError as e:
            raise UserError(f"ledger {self._hashes}: cannot be read: {e}") from e

    def runs(self, head: Head | None = None) -> list[RunRecord]:
        """All runs, oldest first, as they stood at a head; None: now."""
        return runs_of(self.entries()[: None if head is None else head.entries])

    def allowances(self, head: Head | None = None) -> list[Allowance]:
        """Budgets that were set, oldest first, each replacing the one of its unit before it."""
        return allowances_of(self.entries()[: None if head is None else head.entries])

    def set_allowance(self, unit: str, epsilon: float, delta: float) -> None:
        """Set or change the budget of a unit; the line stays and shows in later statements.

        Raises:
            UserError: it is below what the runs in the ledger may release together.
        """
        new = Allowance(unit, epsilon, delta, datetime.now(UTC).isoformat(timespec="seconds"))
        with self._locked():
            new.refuse_below_spent(self.runs())
            self._append({"kind": "budget", "unit": unit, "epsilon": epsilon, "delta": delta,
                          "set": new.set})  # fmt: skip

    def rows(self) -> int | None:
        """Training rows that the data set was last said to have; None: nobody has said."""
        return next((e["rows"] for e in reversed(self.entries()) if e["kind"] == "rows"), None)

    def set_rows(self, rows: int) -> None:
        """Enter how many training rows the data set has; public, and no claim."""
        with self._locked():
            if self.rows() != rows:
                self._append({"kind": "rows", "rows": rows})

    def entries(self) -> list[dict[str, Any]]:
        """All entries, oldest first. Their checksums are verified.

        Raises:
            UserError: a line was changed, removed or is unreadable.
        """
        self._refresh()
        return self._chain.entries

    def remember(self, release: Path) -> None:
        """Remember a release whose statement names a head of this ledger."""
        with self._locked():
            self._chain.write_head(release)

    def releases(self) -> list[Path]:
        """Release folders that were remembered; some may have moved since."""
        return [Path(p) for p in self._chain.releases()]

    def check_hashes(self) -> None:
        """Verify every hash of every run.

        Raises:
            UserError: one was changed or removed.
        """
        for run in dict.fromkeys(e["run"] for e in self.entries() if e["kind"] == "answers"):
            self.hashes(run)

    def _fresh(self, records: Sequence[RunRecord]) -> list[RunRecord]:
        """The records that are not entered yet."""
        known, fresh = {r.run: r for r in self.runs()}, []
        trained = {r.teacher: r.event for r in known.values()}
        for record in records:
            stored = known.get(record.run)
            other = record.teacher is not None and trained.get(record.teacher, record.event)
            if other and other != record.event:
                raise UserError(
                    f"ledger {self.path}: teacher {record.teacher} was entered with another "
                    "training; its DP ledger was changed since: restore it"
                )
            if stored is None:
                fresh.append(record)
            elif differences := record.differences(stored):
                raise UserError(
                    f"ledger {self.path}: run {record.run} was entered with another plan: "
                    f"{'; '.join(differences)}; accepted: the plan that it began with, or a new run"
                )
        return fresh

    def _allowances(self) -> list[Allowance]:
        """The budgets in force, one a unit."""
        return list({a.unit: a for a in self.allowances()}.values())

    def _answers(self, run: str) -> Iterator[dict[str, Any]]:
        return (e for e in self.entries() if e["kind"] == "answers" and e["run"] == run)

    def _begin(self) -> None:
        if self._hashes.exists():
            raise UserError(
                f"ledger {self.path}: missing or without a whole line, but {self._hashes.name} "
                "beside it holds answers; restore it"
            )
        if self._chain.head_path.exists():
            self._chain.check_head()
        if (key := self.path.with_name(KEY_FILE)).exists():
            raise UserError(
                f"ledger {self.path}: missing, but {key.name} beside it has signed releases that "
                "it held; restore it"
            )
        self._chain.cut_torn_line()
        self._chain.write_head()
        self._chain.append({"kind": "ledger", "version": _VERSION, "teacher": self.teacher})
        sync(self.path.parent)

    def _refresh(self) -> None:
        """Read what other processes appended, and count it."""
        self._chain.read()
        for e in self._chain.entries[self._counted :]:
            self._count(e)
            self._counted += 1

    def _count(self, entry: dict[str, Any]) -> None:
        """Take a line into account, if it follows from those before."""
        try:
            if type(entry["kind"]) is not str:
                raise TypeError("kind")
            if entry["kind"] != "answers":
                runs_of([entry]), allowances_of([entry])  # can be read
                if entry["kind"] == "run":
                    self._entered.add(entry["run"])
                if entry["kind"] in ("ledger", "adopted"):
                    self._may_skip = entry.get("version") == 1
                return
            run, n = entry["run"], entry["n"]
            offset, end = entry["hashes_offset"], self._end
            # Version 1 left the hashes of a killed batch where they were.
            follows = offset == end or (self._may_skip and offset > end)
            if (
                type(n) is not int
                or n < 0
                or not follows
                or entry["position"] != self._charged[run]
            ):
                raise ValueError("does not follow from the lines before")
        except (LookupError, TypeError, ValueError, AttributeError) as e:
            raise UserError(f"ledger {self.path}: line {self._counted + 1} is damaged") from e
        self._charged[run] += n
        self._end = offset + n * HASH_BYTES

    def _check_owner(self) -> None:
        if not self._chain.entries:
            raise UserError(f"ledger {self.path}: empty")
        owner = self._chain.entries[0].get("teacher")
        if owner != self.teacher:
            raise UserError(f"ledger {self.path}: belongs to teacher {owner}, not {self.teacher}")
        version = self._chain.entries[0].get("version")
        if version not in (1, _VERSION):
            raise UserError(
                f"ledger {self.path}: version {version}; accepted by this version of dpsd: 1 and "
                f"{_VERSION}"
            )

    def _check_whole(self) -> None:
        """Refuse a ledger that lacks lines or hashes at its end; adopt one without a head."""
        kinds = {e["kind"] for e in self._chain.entries}
        older = self._chain.entries[0].get("version") == 1 and "adopted" not in kinds
        if self._chain.head_path.exists() or not older:
            self._chain.check_head()
        size = self._hashes.stat().st_size if self._hashes.exists() else 0
        if size < self._end:
            raise UserError(
                f"ledger {self._hashes}: damaged: holds {size} bytes of hashes, the lines speak of "
                f"{self._end}; restore it"
            )
        if size > self._end and not self._unfinished():
            raise UserError(
                f"ledger {self.path}: lines were cut off: {self._hashes.name} beside it holds "
                f"{(size - self._end) / HASH_BYTES:g} answers more than the lines speak of; "
                "restore it"
                + (f", or cut {self._hashes.name} to {self._end} bytes if an older version was "
                   "killed while it charged them" if older else "")
            )  # fmt: skip
        self._chain.cut_torn_line()
        if older:  # from now on a missing head is a loss
            self._chain.write_head()
            self._append({"kind": "adopted", "version": _VERSION})

    def _unfinished(self) -> bool:
        """Whether what stands behind the hashes was left by a process that was killed."""
        with self._hashes.open("rb") as f:
            f.seek(self._end)
            rest = f.read()
        # The mark is written first: where it is not whole, no hash was written.
        return rest.endswith(self._mark()) or not any(rest[:-_MARK_BYTES])

    def _mark(self) -> bytes:
        return b"?" + self._end.to_bytes(_MARK_BYTES - 1, "big")

    def _write_hashes(self, raw: bytes) -> None:
        """Write hashes behind those that the lines speak of, over an unfinished batch."""
        with self._hashes.open("r+b" if self._hashes.exists() else "w+b") as f:
            f.truncate(self._end)
            for at, part in ((len(raw), self._mark()), (0, raw)):
                f.seek(self._end + at)
                f.write(part)
                f.flush()
                os.fsync(f.fileno())

    def _append(self, entry: dict[str, Any]) -> None:
        self._chain.append(entry)
        self._refresh()

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with self._chain.locked():
            self._chain.cut_torn_line()  # of a process that died since
            self._refresh()
            yield


def _digest(raw: bytes | memoryview) -> str:
    return hashlib.blake2b(raw, digest_size=16).hexdigest()


def runs_of(entries: Sequence[dict[str, Any]]) -> list[RunRecord]:
    """The runs in lines of a ledger, oldest first, with the answers that these lines charge."""
    charged: Counter[str] = Counter()
    for e in entries:
        if e["kind"] == "answers":
            charged[e["run"]] += e["n"]
    return [record_from_line(e, charged[e["run"]]) for e in entries if e["kind"] == "run"]


def allowances_of(entries: Sequence[dict[str, Any]]) -> list[Allowance]:
    """The budgets in lines of a ledger, oldest first."""
    return [Allowance(e["unit"], e["epsilon"], e["delta"], e["set"])
            for e in entries if e["kind"] == "budget"]  # fmt: skip


def open_ledger(folder: Path) -> Ledger:
    """An existing ledger, whoever owns it.

    Raises:
        UserError: no ledger is there, or it is damaged.
    """
    chain = Chain(folder / "ledger.jsonl")
    chain.read()
    owner = chain.entries[0].get("teacher") if chain.entries else None
    if owner is None:
        raise UserError(f"ledger {chain.path}: its first line names no owner")
    return Ledger(folder, str(owner))


def charge_labels(ledger: Ledger, run: str, event: Release, *, seeded: bool, unit: str) -> bool:
    """Charge the label histogram of a run, once, in a ledger line of its own.

    Returns:
        False where it was charged before: whoever draws it again would release it uncharged.
    """
    name = labels_run(run)
    ledger.open_run(labels_record(run, event, seeded=seeded, unit=unit))
    if ledger.charged(name):
        return False
    ledger.charge(name, 0, np.frombuffer(b"label histogram ", f"V{HASH_BYTES}"))
    return True


def labels_record(run: str, event: Release, *, seeded: bool, unit: str) -> RunRecord:
    """The line of a run's label histogram, which is released once."""
    return RunRecord(labels_run(run), event, cap=1, seeded_noise=seeded, unit=unit)
