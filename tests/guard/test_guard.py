"""What holds for an account: levels that the policy decided, and those that were set by hand."""

from dataclasses import replace

import pytest

from dpsd.guard.accounts import add_account
from dpsd.guard.guard import Guard
from dpsd.guard.limits import Limits, Tier
from dpsd.guard.policy import Level, Policy
from dpsd.guard.storage.sqlite_store import SqliteStore
from dpsd.guard.storage.store import Watched

LEVELS = (Level("slow", 1.0, rate=0.5, defences=("labels",)), Level("stop", 1.5, block=True))


@pytest.fixture
def store(tmp_path):
    store = SqliteStore(tmp_path / "guard.sqlite")
    yield store
    store.close()


def guard_of(store, dry_run):
    limits = Limits({"trial": Tier(10)}, 1_000, 1_000, store)
    return Guard(store, limits, Policy(LEVELS, dry_run=dry_run), None, bytes(32))


@pytest.mark.parametrize("dry_run", [True, False])
def test_a_level_set_by_hand_holds_in_a_dry_run_and_without_a_reference(store, dry_run):
    account, _ = add_account(store, bytes(32), "alice", "trial")
    guard, watched = guard_of(store, dry_run), Watched(account.id, b"", level="slow", suspicion=1.2)
    store.watch(watched)
    assert guard.standing(account).level is None  # the policy decided it, and nothing is watched
    assert guard.gate(account, "n", 6) is None
    store.watch(replace(watched, held=1))
    assert guard.standing(account).level == LEVELS[0]
    assert guard.standing(account).hides_probabilities
    assert guard.gate(account, "n", 6).code in ("rate_limited", "too_many_images")
    store.watch(replace(watched, held=1, level="stop"))
    assert guard.gate(account, "n", 1).code == "blocked"
