"""A damaged ledger is refused, or counts at least what was given.

Given are the answers whose `charge` had returned. The property holds for any damage of up to two of
the ledger's three files, and for processes that are killed at any byte. Two things are out of its
reach, since the checksums need no key:

- All three files are put back to what they were at one earlier time, as from a whole backup. Where
  no answer was given since, `ledger.hashes` needs no putting back. The head may be of one line
  less, as it is while a line is written.
- A line is edited and its checksum recomputed, and the head is put back to one from before that
  line. What is told of single runs may then be false. The number of answers still holds, since
  `ledger.hashes` tells it too.
"""

import contextlib
import hashlib
import itertools
import json
import multiprocessing
import os
import random
import signal
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

from dpsd.errors import UserError
from dpsd.privacy.events import PureRelease
from dpsd.privacy.ledger import Ledger
from dpsd.privacy.record import RunRecord

LINES, HASHES, HEAD = "ledger.jsonl", "ledger.hashes", "ledger.head.json"
NAMES = (LINES, HASHES, HEAD)
RUNS = "abc"


def fuzz(examples):
    return settings(max_examples=examples, derandomize=True, deadline=None, database=None)


@pytest.fixture(scope="module", autouse=True)
def no_waiting_for_the_disk():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: None)
        yield


@dataclass(frozen=True)
class State:
    """The bytes of the three files, None where there is none, and what was given until then."""

    files: dict[str, bytes | None]
    given: dict[str, int]
    records: tuple[RunRecord, ...]
    budgets: tuple[float, ...]


class Book:
    """Uses a ledger, and keeps its own list of what was entered and given."""

    def __init__(self, folder):
        self.folder, self.hashes = folder, np.random.default_rng(0)
        self.given, self.records, self.budgets = Counter(), [], []

    def use(self, ledger, step):
        """One step: ("run", name), ("charge", name, n) or ("budget", epsilon)."""
        kind, value, *rest = step
        if kind == "run":
            record = RunRecord(value, PureRelease(0.5), cap=1000, started="2024", unit="record")
            ledger.open_run(record)
            if value not in [r.run for r in self.records]:
                self.records.append(record)
        elif kind == "charge":
            self.use(ledger, ("run", value))
            position = ledger.charged(value)
            raw = self.hashes.bytes(16 * rest[0])
            ledger.charge(value, position, np.frombuffer(raw, "V16"))
            self.given[value] += rest[0]
        else:
            ledger.set_allowance("record", value, 1e-5)
            self.budgets.append(value)

    def state(self):
        files = {}
        for name in NAMES:
            path = self.folder / name
            files[name] = path.read_bytes() if path.exists() else None
        return State(files, dict(self.given), tuple(self.records), tuple(self.budgets))


def check(folder, state):
    """The property, for a ledger that could be opened."""
    ledger = Ledger(folder, "t")
    for run, n in state.given.items():
        assert ledger.charged(run) >= n
    known = {r.run: r for r in ledger.runs()}
    for record in state.records:
        assert replace(known[record.run], answers=0) == record
        assert known[record.run].answers >= state.given.get(record.run, 0)
    entered = iter(a.epsilon for a in ledger.allowances())
    assert all(epsilon in entered for epsilon in state.budgets)  # in this order
    return ledger


STEPS = st.one_of(
    st.tuples(st.just("run"), st.sampled_from(RUNS)),
    st.tuples(st.just("charge"), st.sampled_from(RUNS), st.integers(1, 4)),
    st.tuples(st.just("budget"), st.sampled_from([1e6, 2e6])),
)


def history(seed):
    """The states of a ledger after each of its steps, oldest first."""
    rng = random.Random(seed)
    with tempfile.TemporaryDirectory() as scratch:
        book = Book(Path(scratch))
        ledger, states = Ledger(book.folder, "t"), []
        states.append(book.state())
        for _ in range(rng.randint(2, 9)):
            charge = ("charge", rng.choice(RUNS), rng.randint(1, 4))
            others = [("run", rng.choice(RUNS)), ("budget", rng.choice([1e6, 2e6]))]
            book.use(ledger, rng.choice([charge, charge, charge, *others]))
            states.append(book.state())
    return states


HISTORIES = []


def histories():
    if not HISTORIES:
        HISTORIES.extend(history(seed) for seed in range(24))
    return HISTORIES


# Damage of one file. Each takes bytes and numbers that say where, and returns other bytes or None.


def cut_bytes(raw, i, j):
    return raw[: len(raw) - 1 - i % max(1, len(raw))]


def cut_lines(raw, i, j):
    lines = raw.splitlines(keepends=True)
    return b"".join(lines[: len(lines) - 1 - i % max(1, len(lines))])


def repeat_line(raw, i, j):
    lines = raw.splitlines(keepends=True)
    if lines:
        lines.insert(j % (len(lines) + 1), lines[i % len(lines)])
    return b"".join(lines)


def swap_lines(raw, i, j):
    lines = raw.splitlines(keepends=True)
    if lines:
        i, j = i % len(lines), j % len(lines)
        lines[i], lines[j] = lines[j], lines[i]
    return b"".join(lines)


def drop_line(raw, i, j):
    lines = raw.splitlines(keepends=True)
    return b"".join(lines[: i % len(lines)] + lines[i % len(lines) + 1 :]) if lines else raw


def edit_byte(raw, i, j):
    at = i % max(1, len(raw))
    return raw[:at] + bytes([j % 256]) + raw[at + 1 :]


def flip_bit(raw, i, j):
    at = i % max(1, len(raw))
    return raw[:at] + bytes(c ^ (1 << j % 8) for c in raw[at : at + 1]) + raw[at + 1 :]


def more_bytes(raw, i, j):
    return raw + bytes([j % 256]) * (1 + i % 70)


def wrong_checksum(raw, i, j):
    lines = raw.splitlines(keepends=True)
    if not lines:
        return raw
    entry = json.loads(lines[i % len(lines)])
    other = json.loads(lines[j % len(lines)])
    wrong = other["checksum"] if i % len(lines) != j % len(lines) else "0" * 32
    lines[i % len(lines)] = json.dumps(entry | {"checksum": wrong}).encode() + b"\n"
    return b"".join(lines)


def forge_line(raw, i, j):
    """Edit one value of one line, and make its checksum right again."""
    lines = raw.splitlines(keepends=True)
    if not lines:
        return raw
    at, chain = i % len(lines), ""
    if at:
        chain = json.loads(lines[at - 1])["checksum"]
    entry = json.loads(lines[at])
    del entry["checksum"]
    key = sorted(entry)[j % len(entry)]
    value = entry[key]
    choices = [value - 1, value + 1, 0, -value] if type(value) in (int, float) else ["b", None, {}]
    entry[key] = choices[j // 7 % len(choices)]
    text = json.dumps(entry, sort_keys=True)
    sum_ = hashlib.blake2b((chain + text).encode(), digest_size=16).hexdigest()
    lines[at] = f'{text[:-1]}, "checksum": "{sum_}"}}\n'.encode()
    return b"".join(lines)


def edit_head(raw, i, j):
    head = json.loads(raw)
    choices = [{"entries": 0, "checksum": ""}, {"entries": head["entries"] - 1 - i % 3},
               {"entries": head["entries"] + 1}, {"entries": True}, {"checksum": ""},
               {"releases": None}]  # fmt: skip
    return json.dumps(head | choices[j % len(choices)]).encode()


def delete(raw, i, j):
    return None


def empty(raw, i, j):
    return b""


ANY = [cut_bytes, edit_byte, flip_bit, more_bytes, delete, empty]
OF_LINES = [cut_lines, repeat_line, swap_lines, drop_line, wrong_checksum, forge_line]
DAMAGE = {LINES: ANY + 2 * OF_LINES, HASHES: ANY, HEAD: [*ANY, edit_head, edit_head]}
NUMBER = st.integers(0, 5000)


@st.composite
def damaged(draw):
    """The last state of a ledger, the files after damage, what was done, and all states."""
    states = draw(st.sampled_from(histories()))
    files, done = dict(states[-1].files), []
    for name in draw(st.lists(st.sampled_from(NAMES), min_size=1, max_size=2, unique=True)):
        if draw(st.booleans()):  # put back to an earlier time
            files[name] = draw(st.sampled_from(states)).files[name]
            done.append((name, "earlier"))
        for _ in range(draw(st.integers(0 if done and done[-1][0] == name else 1, 2))):
            damage = draw(st.sampled_from(DAMAGE[name]))
            with contextlib.suppress(ValueError, LookupError, TypeError, AttributeError):
                files[name] = damage(files[name], draw(NUMBER), draw(NUMBER))
                done.append((name, damage.__name__))
    return states, files, done


def from_backup(files, state):
    """Whether the files are those of an earlier state."""
    if any(files[name] != state.files[name] for name in (LINES, HASHES)):
        return False
    sums = [json.loads(line)["checksum"] for line in state.files[LINES].splitlines()]
    try:
        head = json.loads(files[HEAD])
        return head["checksum"] in sums[-2:] and sums[head["entries"] - 1] == head["checksum"]
    except (ValueError, LookupError, TypeError):
        return False


def write(folder, files):
    for name, raw in files.items():
        if raw is not None:
            (folder / name).write_bytes(raw)


@fuzz(1200)
@given(damaged())
def test_a_damaged_ledger_is_refused_or_counts_what_was_given(case):
    states, files, done = case
    if any(from_backup(files, state) for state in states[:-1]):
        return
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        write(folder, files)
        try:
            ledger = Ledger(folder, "t")
        except UserError:
            event("refused")
            assert files != states[-1].files
            return
        event("opened")
        forged = (LINES, "forge_line") in done and any(name == HEAD for name, _ in done)
        if forged:
            answers = sum(ledger.charged(e["run"]) for e in ledger.entries() if e["kind"] == "run")
            counted = sum(e["n"] for e in ledger.entries() if e["kind"] == "answers")
            assert counted >= sum(states[-1].given.values()), answers
        else:
            check(folder, states[-1])


class Killed(BaseException):
    """No handler of errors catches it."""


class Meter:
    """Kills the process, so to say, after so many bytes or changes of a file's size or name."""

    def __init__(self, patch, left):
        self.left, self.spent, meter = left, 0, self
        replace_file, truncate, open_path = os.replace, os.truncate, Path.open

        class File:
            def __init__(self, inner):
                self._inner = inner

            def __getattr__(self, name):
                return getattr(self._inner, name)

            def __enter__(self):
                return self

            def __exit__(self, *_):
                self._inner.close()

            def write(self, raw):
                allowed = meter.take(len(raw))
                self._inner.write(raw[:allowed])
                if allowed < len(raw):
                    self._inner.flush()
                    raise Killed

            def truncate(self, *size):
                meter.once()
                return self._inner.truncate(*size)

        patch.setattr(Path, "open", lambda self, *a, **k: File(open_path(self, *a, **k)))
        patch.setattr(os, "replace", lambda *a: (meter.once(), replace_file(*a)))
        patch.setattr(os, "truncate", lambda *a: (meter.once(), truncate(*a)))

    def take(self, n):
        allowed = min(n, self.left)
        self.left, self.spent = self.left - allowed, self.spent + allowed
        return allowed

    def once(self):
        if not self.take(1):
            raise Killed


def killed_at(book, steps, left):
    """Do the steps with one ledger until so many bytes are written; how many were written."""
    with pytest.MonkeyPatch.context() as patch:
        meter = Meter(patch, left)
        with contextlib.suppress(Killed):
            ledger = Ledger(book.folder, "t")
            for step in steps:
                book.use(ledger, step)
    return meter.spent


@fuzz(250)
@given(st.lists(STEPS, min_size=1, max_size=4), st.lists(st.floats(0, 1), min_size=1, max_size=3))
def test_a_process_that_is_killed_at_any_byte_loses_nothing(steps, times):
    with tempfile.TemporaryDirectory() as scratch:
        whole = killed_at(Book(Path(scratch)), steps, 10**9)
    with tempfile.TemporaryDirectory() as scratch:
        book = Book(Path(scratch))
        for share in times:  # the next process goes on with what the one before left
            killed_at(book, steps, int(share * whole))
            ledger = check(book.folder, book.state())  # it opens: nobody is locked out
            for run in RUNS:
                at_most = book.given[run] + 4 * len(times)  # batches that were never given
                assert book.given[run] <= ledger.charged(run) <= at_most
        book.use(ledger, ("charge", "a", 2))
        check(book.folder, book.state()).check_hashes()


@pytest.mark.parametrize("step", [("charge", "a", 3), ("run", "b"), ("budget", 1e6)])
def test_every_byte_of_one_step(tmp_path, step):
    """As above, without chance: a kill at each byte of a step."""
    book = Book(tmp_path)
    book.use(Ledger(tmp_path, "t"), ("charge", "a", 2))
    before = book.state()
    whole = killed_at(book, [step], 10**9)
    assert whole > 200
    for left in range(whole + 1):
        for name in NAMES:
            (tmp_path / name).write_bytes(before.files[name])
        book = Book(tmp_path)
        book.given.update(before.given)
        book.records.extend(before.records)
        assert killed_at(book, [step], left) == left
        check(tmp_path, book.state())
    assert book.state() != before  # the last one was let through


@fuzz(150)
@given(
    st.lists(st.tuples(st.integers(0, 1), STEPS), min_size=2, max_size=8),
    st.none() | st.integers(0, 1500),
)
def test_two_writers_that_interleave(steps, left):
    """The first may be killed, and the other goes on without opening the ledger again."""
    with tempfile.TemporaryDirectory() as scratch:
        book = Book(Path(scratch))
        writers = [Ledger(book.folder, "t"), Ledger(book.folder, "t")]
        alive = [True, True]
        for who, step in steps:
            if not alive[who]:
                continue
            with pytest.MonkeyPatch.context() as patch:
                meter = Meter(patch, left) if who == 0 and left is not None else None
                try:
                    book.use(writers[who], step)
                except Killed:
                    alive[0] = False
                except UserError:  # it found a line that the other left unfinished
                    assert not alive[0]
                if meter is not None:
                    left = meter.left
        if all(alive):
            assert [w.runs() for w in writers] == 2 * [Ledger(book.folder, "t").runs()]
            assert {r: n for r, n in book.given.items() if n} == {
                r.run: r.answers for r in writers[0].runs() if r.answers
            }
        check(book.folder, book.state()).check_hashes()


def _charge_for_ever(folder, pipe):
    ledger = Ledger(folder, "t")
    ledger.open_run(RunRecord("a", PureRelease(0.5), cap=10**6))
    for i in itertools.count():
        position = ledger.charged("a")
        raw = np.random.default_rng(i).bytes(16 * 7)
        ledger.charge("a", position, np.frombuffer(raw, "V16"))
        os.write(pipe, b"7\n")


def test_kill_9_at_random_times(tmp_path):
    """A process charges in a loop and writes a line after each charge; it is killed ten times."""
    rng, printed, context = random.Random(0), 0, multiprocessing.get_context("fork")
    for kills in range(1, 11):
        out, into = os.pipe()
        process = context.Process(target=_charge_for_ever, args=(tmp_path, into))
        process.start()
        os.close(into)
        with os.fdopen(out, "rb") as lines:
            printed += int(lines.readline())  # it is at work
            time.sleep(rng.uniform(0, 0.05))
            os.kill(process.pid, signal.SIGKILL)
            process.join()
            printed += sum(int(line) for line in lines)
        counted = Ledger(tmp_path, "t").charged("a")
        assert printed <= counted <= printed + 7 * kills
        assert len(Ledger(tmp_path, "t").hashes("a")) == counted
