import hashlib
import json
import multiprocessing
import os
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from dpsd.errors import UserError
from dpsd.privacy.chain import Chain, Head
from dpsd.privacy.events import (
    GaussianRelease,
    OpenRelease,
    PureRelease,
    event_facts,
    event_from_facts,
)
from dpsd.privacy.ledger import Ledger, RunRecord, image_hashes


def images(n, seed=0):
    rng = torch.Generator().manual_seed(seed)
    return torch.randint(256, (n, 1, 4, 4), generator=rng, dtype=torch.uint8)


HALF = PureRelease(0.5)


def open_run(ledger, run="a", event=HALF, cap=100, asks=1, seeded=False):
    ledger.open_run(RunRecord(run, event, cap, asks, seeded, "2024-01-01"))


@pytest.fixture
def used(tmp_path):
    """A ledger with one run of two batches: header, run, answers, answers."""
    ledger = Ledger(tmp_path, "t")
    open_run(ledger)
    ledger.charge("a", 0, image_hashes(images(3)))
    ledger.charge("a", 3, image_hashes(images(2, seed=1)))
    return ledger


def test_append_and_read_again(used, tmp_path):
    open_run(used, "b", GaussianRelease(1.5, 3.25), cap=7, asks=2, seeded=True)
    again = Ledger(tmp_path, "t")
    assert [e["kind"] for e in again.entries()] == ["ledger", "run", "answers", "answers", "run"]
    assert (again.charged("a"), again.charged("b"), again.charged("c")) == (5, 0, 0)
    first, second = again.runs()
    assert (first.run, first.event, first.cap, first.answers) == ("a", PureRelease(0.5), 100, 5)
    assert (second.run, second.event, second.cap) == ("b", GaussianRelease(1.5, 3.25), 7)
    assert (second.asks_per_image, second.answers, second.seeded_noise) == (2, 0, True)


def test_hashes_round_trip(used, tmp_path):
    open_run(used, "b")
    used.charge("b", 0, image_hashes(images(4, seed=2)))
    used.charge("a", 5, image_hashes(images(1, seed=3)))
    asked = torch.cat([images(3), images(2, seed=1), images(1, seed=3)])
    again = Ledger(tmp_path, "t")
    np.testing.assert_array_equal(again.hashes("a"), image_hashes(asked))
    np.testing.assert_array_equal(again.hashes("b"), image_hashes(images(4, seed=2)))
    assert len(again.hashes("nobody")) == 0


def test_image_hash_is_of_the_exact_pixels():
    one = images(1)
    other = one.clone()
    other[0, 0, 3, 3] ^= 1
    assert image_hashes(one) == image_hashes(one.clone())
    assert image_hashes(one) != image_hashes(other)
    assert image_hashes(one.expand(2, -1, -1, -1)[:, :, ::2]).shape == (2,)


def test_opening_a_run_again_changes_nothing(used):
    before = used.path.read_bytes()
    open_run(used)
    assert used.path.read_bytes() == before


def flip(raw, line):
    lines = raw.splitlines(keepends=True)
    lines[line] = lines[line].replace(b'"', b"'", 1) if line == 0 else _other_digit(lines[line])
    return b"".join(lines)


def _other_digit(line):
    at = next(i for i, c in enumerate(line) if chr(c).isdigit())
    return line[:at] + (b"7" if line[at : at + 1] != b"7" else b"8") + line[at + 1 :]


@pytest.mark.parametrize(
    "damage",
    [
        lambda raw: flip(raw, 0),
        lambda raw: flip(raw, 1),
        lambda raw: flip(raw, 2),
        lambda raw: flip(raw, 3),
        lambda raw: b"".join(raw.splitlines(keepends=True)[1:]),
        lambda raw: b"".join(np.delete(raw.splitlines(keepends=True), 2)),
        lambda raw: b"".join(raw.splitlines(keepends=True)[i] for i in (0, 1, 3, 2)),
        lambda raw: raw + raw.splitlines(keepends=True)[-1],
        lambda raw: raw + b"[]\n",
        lambda raw: raw + b"\xff\n",
    ],
)
def test_damage_is_detected(used, tmp_path, damage):
    used.path.write_bytes(damage(used.path.read_bytes()))
    with pytest.raises(UserError, match="ledger"):
        Ledger(tmp_path, "t")


def test_every_changed_number_is_detected(used, tmp_path):
    lines = used.path.read_text().splitlines()
    for number, line in enumerate(lines):
        entry = json.loads(line)
        for key, value in entry.items():
            if isinstance(value, int):
                changed = lines.copy()
                changed[number] = json.dumps(entry | {key: value - 1})
                used.path.write_text("\n".join(changed) + "\n")
                with pytest.raises(UserError, match=f"line {number + 1} fails its checksum"):
                    Ledger(tmp_path, "t")


def test_damaged_hashes_are_detected(used, tmp_path):
    path = tmp_path / "ledger.hashes"
    raw = bytearray(path.read_bytes())
    raw[20] ^= 1
    path.write_bytes(raw)
    with pytest.raises(UserError, match="damaged"):
        Ledger(tmp_path, "t").hashes("a")


def head_of(folder, lines):
    """Write the head that stood beside the first lines, as a process killed in time leaves it."""
    ledger = Ledger(folder, "t")
    checksum = ledger._chain._sums[lines - 1] if lines else ""
    facts = {"entries": lines, "checksum": checksum, "releases": []}
    (folder / "ledger.head.json").write_text(json.dumps(facts))


@pytest.mark.parametrize("cut", [1, 5, 40])
def test_torn_last_line_is_cut(tmp_path, monkeypatch, cut):
    """A process that was killed while it wrote its second line: its hashes and their mark stand."""
    ledger = Ledger(tmp_path, "t")
    open_run(ledger)
    ledger.charge("a", 0, image_hashes(images(3)))
    killed = killed_after(ledger, monkeypatch, "a", 3, image_hashes(images(2, seed=1)))
    ledger.path.write_bytes(killed[:-cut])
    again = Ledger(tmp_path, "t")
    assert again.charged("a") == 3  # the batch that was never given
    again.charge("a", 3, image_hashes(images(1, seed=5)))
    expected = image_hashes(torch.cat([images(3), images(1, seed=5)]))
    np.testing.assert_array_equal(Ledger(tmp_path, "t").hashes("a"), expected)


def killed_after(ledger, monkeypatch, run, position, hashes):
    """Charge, but be killed once the line is written; returns the bytes of all lines."""

    class Killed(Exception):
        pass

    def die(*_):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(ledger._chain, "write_head", die)
        with pytest.raises(Killed):
            ledger.charge(run, position, hashes)
    return ledger.path.read_bytes()


@pytest.mark.parametrize("cut", [1, 5, 40])
def test_a_given_answer_whose_line_was_torn_is_missed(used, tmp_path, cut):
    torn = used.path.read_bytes()[:-cut]
    used.path.write_bytes(torn)
    with pytest.raises(UserError, match=r"ledger\.head\.json beside it names line 4"):
        Ledger(tmp_path, "t")
    assert used.path.read_bytes() == torn  # nothing is written where a ledger is refused


@pytest.mark.parametrize("left", [0, 1, 30])
def test_crash_while_the_ledger_is_created(tmp_path, left):
    path = Ledger(tmp_path, "t").path
    head_of(tmp_path, 0)
    path.write_bytes(path.read_bytes()[:left])
    ledger = Ledger(tmp_path, "t")
    assert [e["kind"] for e in ledger.entries()] == ["ledger"]


@pytest.mark.parametrize("left", [None, b"", b"{torn"])
def test_answers_without_their_ledger_are_refused(used, tmp_path, left):
    used.path.unlink()
    if left is not None:
        used.path.write_bytes(left)
    with pytest.raises(UserError, match="restore it"):
        Ledger(tmp_path, "t")


def test_other_teacher_is_refused(used, tmp_path):
    with pytest.raises(UserError, match="belongs to teacher t, not u"):
        Ledger(tmp_path, "u")


@pytest.mark.parametrize("position", [0, 4, 6])
def test_position_guard(used, position):
    before = used.path.read_bytes(), used.path.with_name("ledger.hashes").read_bytes()
    with pytest.raises(UserError, match="stands at 5 answers"):
        used.charge("a", position, image_hashes(images(1)))
    after = used.path.read_bytes(), used.path.with_name("ledger.hashes").read_bytes()
    assert after == before


def test_two_ledgers_on_one_folder_see_each_other(used, tmp_path):
    other = Ledger(tmp_path, "t")
    used.charge("a", 5, image_hashes(images(1, seed=5)))
    assert other.charged("a") == 6
    open_run(other, "b")
    other.charge("b", 0, image_hashes(images(2, seed=6)))
    assert used.charged("b") == 2
    assert used.runs() == other.runs()
    with pytest.raises(UserError, match="stands at 6"):
        other.charge("a", 5, image_hashes(images(1, seed=7)))


def _charge_many(folder, run):
    ledger = Ledger(folder, "t")
    open_run(ledger, run)
    for i in range(20):
        ledger.charge(run, i, image_hashes(images(1, seed=i)))


def test_processes_take_turns(tmp_path):
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=_charge_many, args=(tmp_path, r)) for r in "abc"]
    for w in workers:
        w.start()
    for w in workers:
        w.join()
    ledger = Ledger(tmp_path, "t")
    expected = image_hashes(torch.cat([images(1, seed=i) for i in range(20)]))
    for run in "abc":
        np.testing.assert_array_equal(ledger.hashes(run), expected)


def test_charge_is_synced_before_it_returns(used, monkeypatch):
    synced = []

    def fsync(handle):
        synced.append(Path(os.readlink(f"/proc/self/fd/{handle}")).name)

    monkeypatch.setattr(os, "fsync", fsync)
    used.charge("a", 5, image_hashes(images(1)))
    assert synced == [
        "ledger.hashes",  # their mark
        "ledger.hashes",
        "ledger.jsonl",
        ".ledger.head.json.partial",
    ]


@pytest.mark.parametrize("gone", ["line", "line and head", "two lines and head"])
def test_hashes_without_their_line_are_refused(used, tmp_path, gone):
    lines = used.path.read_bytes().splitlines(keepends=True)
    kept = 2 if "two" in gone else 3
    if "head" in gone:
        head_of(tmp_path, kept)
    used.path.write_bytes(b"".join(lines[:kept]))
    missing = "names line 4" if gone == "line" else f"holds {5 if kept == 2 else 2} answers more"
    with pytest.raises(UserError, match=missing):
        Ledger(tmp_path, "t")


@pytest.mark.parametrize("written", range(0, 16 * 2000 + 10, 997))
def test_hashes_of_a_batch_that_was_never_given_are_dropped(used, tmp_path, written):
    """The batch is far larger than any before; it was killed after so many bytes."""
    before, end = used.charged("a"), (tmp_path / "ledger.hashes").stat().st_size
    batch = np.random.default_rng(0).bytes(16 * 2000)
    mark = used._mark()
    with (tmp_path / "ledger.hashes").open("r+b") as f:
        f.seek(end + len(batch))
        f.write(mark[:written])
        f.seek(end)
        f.write(batch[: max(0, written - len(mark))])
    again = Ledger(tmp_path, "t")
    assert again.charged("a") == before
    again.charge("a", before, image_hashes(images(1, seed=9)))
    assert (tmp_path / "ledger.hashes").stat().st_size == end + 16
    assert Ledger(tmp_path, "t").hashes("a")[-1:] == image_hashes(images(1, seed=9))


def test_the_mark_of_a_killed_batch_does_not_excuse_lost_lines(used, tmp_path):
    mark = used._mark()
    with (tmp_path / "ledger.hashes").open("ab") as f:
        f.write(b"h" * 16 + mark)
    assert Ledger(tmp_path, "t").charged("a") == 5
    head_of(tmp_path, 3)
    used.path.write_bytes(b"".join(used.path.read_bytes().splitlines(keepends=True)[:3]))
    with pytest.raises(UserError, match="lines were cut off"):
        Ledger(tmp_path, "t")


@pytest.mark.parametrize(
    "change",
    [
        {"event": PureRelease(0.4)},
        {"cap": 101},
        {"asks_per_image": 2},
        {"seeded_noise": True},
        {"unit": "record"},
        {"teacher": "other"},
        {"route": "ensemble"},
        {"mechanism": "gaussian"},
        {"asked": "other"},
        {"grouping": "other"},
    ],
)
def test_opening_a_run_compares_every_field(tmp_path, change):
    ledger = Ledger(tmp_path, "t")
    entered = RunRecord("a", HALF, 100, 1, False, "2024", route="single", mechanism="laplace",
                        asked="teacher", grouping="roster")  # fmt: skip
    ledger.open_run(entered)
    with pytest.raises(UserError, match=f"entered with another plan: {next(iter(change))} "):
        ledger.open_run(replace(entered, **change))
    with pytest.raises(UserError, match="entered with another plan"):
        ledger.admit(replace(entered, **change))
    ledger.open_run(replace(entered, started="2025", allow_open=True))  # no part of the release
    assert ledger.runs() == [entered]


def test_every_field_of_a_run_is_compared_or_named_here():
    names = {f.name for f in fields(RunRecord)} - {"run", "started", "answers", "allow_open"}
    tried = {"event", "cap", "asks_per_image", "seeded_noise", "unit", "teacher", "route",
             "mechanism", "asked", "grouping"}  # fmt: skip
    assert names == tried


def test_runs_are_entered_together_or_not_at_all(used):
    known = RunRecord("a", HALF, 99)
    with pytest.raises(UserError, match="cap 100 in the ledger, 99 in the plan"):
        used.open_run(RunRecord("new", HALF, 5), known)
    assert [r.run for r in used.runs()] == ["a"]
    used.admit(RunRecord("new", HALF, 5))  # a look enters nothing
    assert [r.run for r in used.runs()] == ["a"]


def test_rows_are_entered_once_a_value(tmp_path):
    ledger = Ledger(tmp_path, "t")
    assert ledger.rows() is None
    for rows in (10, 10, 12, 12, 10):
        ledger.set_rows(rows)
    assert [e["rows"] for e in ledger.entries() if e["kind"] == "rows"] == [10, 12, 10]
    assert Ledger(tmp_path, "t").rows() == 10


def test_releases_are_remembered_once_and_outlive_charges(used, tmp_path):
    for name in ("one", "two", "one"):
        used.remember(tmp_path / name)
    used.charge("a", 5, image_hashes(images(1)))
    assert Ledger(tmp_path, "t").releases() == [tmp_path / "one", tmp_path / "two"]
    head = json.loads((tmp_path / "ledger.head.json").read_text())
    assert (head["entries"], head["checksum"]) == (used.head.entries, used.head.checksum)


def test_a_ledger_holds_the_heads_that_it_had(tmp_path):
    ledger = Ledger(tmp_path / "mine", "t")
    heads = [ledger.head]
    open_run(ledger)
    heads.append(ledger.head)
    ledger.charge("a", 0, image_hashes(images(3)))
    heads.append(ledger.head)
    assert [h.entries for h in heads] == [1, 2, 3]
    assert all(ledger.holds(h) for h in [Head(0, ""), *heads])
    assert [r.answers for h in heads for r in ledger.runs(h)] == [0, 3]
    for wrong in (Head(0, "x"), Head(4, heads[2].checksum), Head(2, heads[2].checksum),
                  Head(-1, heads[2].checksum)):  # fmt: skip
        assert not ledger.holds(wrong)


@pytest.mark.parametrize(
    "head",
    [None, b"", b"[]", b"{}", b"\xff", b'{"entries": 4}', b'{"entries": Infinity, "checksum": ""}',
     b'{"entries": 0, "checksum": "", "releases": 5}', b"[" * 100_000],
)  # fmt: skip
def test_a_head_that_is_missing_or_damaged_is_refused(used, tmp_path, head):
    path = tmp_path / "ledger.head.json"
    path.unlink()
    if head is not None:
        path.write_bytes(head)
    with pytest.raises(UserError, match=r"ledger\.head\.json: missing or damaged"):
        Ledger(tmp_path, "t")


def make_older(folder):
    """Rewrite a ledger as version 1 wrote it: keys in the entry's order, no head."""
    path, chain = folder / "ledger.jsonl", ""
    written = []
    for line in path.read_text().splitlines():
        entry = json.loads(line)
        del entry["checksum"]
        if entry["kind"] == "ledger":
            entry["version"] = 1
        entry = dict(reversed(entry.items()))
        text = chain + json.dumps(entry, sort_keys=True)
        chain = hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
        written.append(json.dumps(entry | {"checksum": chain}) + "\n")
    path.write_text("".join(written))
    (folder / "ledger.head.json").unlink()


@pytest.fixture
def older(used, tmp_path):
    make_older(tmp_path)
    return tmp_path


def test_an_older_ledger_is_adopted(older):
    ledger = Ledger(older, "t")
    assert (ledger.charged("a"), ledger.entries()[-1]["kind"]) == (5, "adopted")
    ledger.charge("a", 5, image_hashes(images(1, seed=3)))
    again = Ledger(older, "t")
    assert again.charged("a") == 6 and len(again.hashes("a")) == 6
    kinds = [e["kind"] for e in again.entries()]
    assert kinds == ["ledger", "run", "answers", "answers", "adopted", "answers"]


@pytest.mark.parametrize("stop", ["write_head", "append"])
def test_an_adoption_that_was_killed_is_made_again(older, monkeypatch, stop):
    def die(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Chain, stop, die)
        with pytest.raises(KeyboardInterrupt):
            Ledger(older, "t")
    assert Ledger(older, "t").entries()[-1]["kind"] == "adopted"


def test_an_adopted_ledger_must_keep_its_head(older):
    ledger = Ledger(older, "t")
    ledger.charge("a", 5, image_hashes(images(1, seed=3)))
    (older / "ledger.head.json").unlink()
    with pytest.raises(UserError, match="missing or damaged"):
        Ledger(older, "t")
    lines = ledger.path.read_bytes().splitlines(keepends=True)
    ledger.path.write_bytes(b"".join(lines[:4]))  # as if it were not adopted yet
    with pytest.raises(UserError, match="holds 1 answers more than the lines speak of"):
        Ledger(older, "t")


def test_an_older_ledger_with_hashes_of_a_killed_batch_says_what_to_do(older):
    with (older / "ledger.hashes").open("ab") as f:
        f.write(b"h" * 32)
    with pytest.raises(UserError, match=r"or cut ledger\.hashes to 80 bytes if an older version"):
        Ledger(older, "t")
    os.truncate(older / "ledger.hashes", 80)
    assert Ledger(older, "t").charged("a") == 5


@pytest.mark.parametrize(
    "entry",
    [
        {"kind": "answers", "run": "a", "n": -1, "position": 5, "hashes_offset": 80},
        {"kind": "answers", "run": "a", "n": 1, "position": 4, "hashes_offset": 80},
        {"kind": "answers", "run": "a", "n": 1, "position": 5, "hashes_offset": 64},
        {"kind": "answers", "run": ["a"], "n": 1, "position": 5, "hashes_offset": 80},
        {"kind": "answers"}, {"x": 1}, {"kind": "run", "run": "b"}, {"kind": "budget"},
    ],
)  # fmt: skip
def test_a_line_that_does_not_follow_is_refused_whatever_its_checksum(used, tmp_path, entry):
    used._chain.append(entry)
    with pytest.raises(UserError, match="line 5 is damaged"):
        Ledger(tmp_path, "t")


@pytest.mark.parametrize("event", [GaussianRelease(2**0.5, 0.1), PureRelease(1 / 3), OpenRelease()])
def test_events_round_trip(event):
    assert event_from_facts(json.loads(json.dumps(event_facts(event)))) == event


def test_unknown_event_is_refused():
    with pytest.raises(UserError, match="laplace"):
        event_from_facts({"kind": "laplace"})


def test_a_run_that_tested_its_votes_counts_as_open(used):
    """Such runs are no longer made; their tests were releases too, so nothing cheaper is right."""
    used._append({"kind": "run", "run": "old", "event": {"kind": "votes", "sigma": 9.0, "cells": 2},
                  "cap": 10, "asks_per_image": 1, "seeded_noise": False, "started": "",
                  "unit": "record", "test": {"kind": "votes", "sigma": 5.0, "cells": 1},
                  "histograms": 3})  # fmt: skip
    assert used.runs()[-1].event == OpenRelease()
