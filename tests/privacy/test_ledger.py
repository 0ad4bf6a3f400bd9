import json
import multiprocessing

import numpy as np
import pytest
import torch

from dpsd.errors import UserError
from dpsd.privacy import ledger as module
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


@pytest.mark.parametrize("cut", [1, 5, 40])
def test_torn_last_line_is_cut(used, tmp_path, cut):
    whole = used.path.read_bytes()
    used.path.write_bytes(whole[:-cut])
    again = Ledger(tmp_path, "t")
    assert again.charged("a") == 3  # the batch that was never given
    again.charge("a", 3, image_hashes(images(1, seed=5)))
    expected = image_hashes(torch.cat([images(3), images(1, seed=5)]))
    np.testing.assert_array_equal(Ledger(tmp_path, "t").hashes("a"), expected)


@pytest.mark.parametrize("left", [0, 1, 30])
def test_crash_while_the_ledger_is_created(tmp_path, left):
    path = Ledger(tmp_path, "t").path
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
    fsync = module.os.fsync
    monkeypatch.setattr(module.os, "fsync", lambda fd: (synced.append(fd), fsync(fd)))
    used.charge("a", 5, image_hashes(images(1)))
    assert len(synced) == 2  # hashes first, then the line that speaks of them


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
