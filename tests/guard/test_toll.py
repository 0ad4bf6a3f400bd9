"""Levels that ask for work: honest accounts pay the base, suspicious ones a hundred times."""

from dataclasses import replace

import pytest

from dpsd.guard.accounts import add_account
from dpsd.guard.detection.sketch import Sketch
from dpsd.guard.guard import Guard
from dpsd.guard.limits import Limits, Tier
from dpsd.guard.policy import Level, Policy
from dpsd.guard.proof_of_work.price import Information
from dpsd.guard.proof_of_work.toll import Toll
from dpsd.guard.proof_of_work.work import solve
from dpsd.guard.storage.sqlite_store import SqliteStore
from dpsd.guard.storage.store import Watched

SECRET = bytes(range(32))


def watched(questions=0, entropy=0.0, suspicion=0.0, prior=0.0):
    sketch = Sketch()
    sketch.fields["asked"], sketch.fields["entropy_all"] = questions, entropy
    return Watched("alice", sketch.to_bytes(), suspicion=suspicion, prior=prior)


def test_the_price_follows_information_and_suspicion():
    toll = Toll(SECRET, honest=Information(0.2, 0.1, 0.01))
    assert toll.times(None) == 1 and toll.times(watched()) == 1
    assert 1 < toll.times(watched(1_000, 205.0)) <= 2
    assert toll.times(watched(1_000, 900.0)) == 100
    assert toll.times(watched(1_000, 200.0, prior=1.0)) == 100
    blind = replace(toll, honest=None)
    assert blind.times(watched(1_000, 900.0)) == 1 and blind.times(watched(suspicion=1.2)) == 100


def test_difficulty_counts_images():
    toll = Toll(SECRET, hashes=64)
    bits = [toll.demand("alice", n, watched(suspicion=s), "", 0.0).puzzle.bits
            for n, s in ((1, 0), (16, 0), (16, 1))]  # fmt: skip
    assert bits == pytest.approx([6, 10, 10 + 6.64], abs=0.01)


def test_a_gate_with_work(tmp_path):
    store = SqliteStore(tmp_path / "guard.sqlite")
    alice = add_account(store, SECRET, "alice", "open")[0]
    limits = Limits({"open": Tier(1_000)}, 10_000, 10_000, store)
    policy = Policy((Level("challenge", 0.5, work=True),), dry_run=False)
    # Detection is off here, so that the level is what the store says.
    guard = Guard(store, limits, policy, None, SECRET, Toll(SECRET, hashes=64))
    guard._background = object()
    assert guard.gate(alice, "n", 4) is None  # no level: no work
    store.watch(Watched(alice.id, b"", suspicion=0.6, level="challenge"))
    refusal = guard.gate(alice, "n", 4)
    assert refusal.status == 428 and refusal.code == "work_needed"
    assert store.spent(alice.id) == 4  # what is not answered is not charged
    solution = solve(refusal.puzzle)
    assert guard.gate(alice, "n", 4, solution) is None and store.spent(alice.id) == 8
    again = guard.gate(alice, "n", 4, solution)
    assert again.status == 428 and again.message == "the solution was used before"
    store.close()
