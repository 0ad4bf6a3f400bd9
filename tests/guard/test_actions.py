"""What an operator does by hand is logged, and undo puts back exactly what it changed."""

import pytest

from dpsd.errors import UserError
from dpsd.guard.accounts import add_account
from dpsd.guard.actions import (
    block,
    change_tier,
    clear,
    hold,
    release,
    unblock,
    undo,
    undoable,
)
from dpsd.guard.policy import Level, Policy
from dpsd.guard.storage.sqlite_store import SqliteStore
from dpsd.guard.storage.store import Watched

POLICY = Policy((Level("slow", 1.0, rate=0.5), Level("less", 1.5)))


@pytest.fixture
def store(tmp_path):
    store = SqliteStore(tmp_path / "guard.sqlite")
    yield store
    store.close()


@pytest.fixture
def id(store):
    """An account at the alarm."""
    account, _ = add_account(store, bytes(32), "alice", "trial")
    store.watch(Watched(account.id, b"seen", 40, 900.0, 1.1, 0.2, "slow", 5.0, 0, "odd", 6.0))
    return account.id


def known(store, id):
    """All that an action may change; not when it was changed."""
    w = store.watched(id)
    names = ("windows", "begun", "suspicion", "prior", "level", "since", "held", "reason")
    return [store.by_id(id).state] + [getattr(w, n) for n in names]


STEPS = {
    "cleared": lambda store, id: clear(store, id, "op"),
    "held": lambda store, id: hold(store, POLICY, id, "less", "op", "by hand"),
    "blocked": lambda store, id: block(store, id, "op"),
}


@pytest.mark.parametrize("kind", STEPS)
def test_undo_puts_back_what_a_step_changed(store, id, kind):
    before = known(store, id)
    STEPS[kind](store, id)
    assert known(store, id) != before
    assert undo(store, id, "op") == kind
    assert known(store, id) == before
    assert [e["kind"] for e in store.events(id)] == [kind, "undone"]
    assert all(e["by"] == "op" for e in store.events(id))


def test_steps_are_taken_back_one_by_one_in_reverse(store, id):
    steps = [STEPS["held"], lambda store, id: release(store, id, "op"), STEPS["blocked"],
             STEPS["cleared"]]  # fmt: skip
    seen = [known(store, id)]
    for step in steps:
        step(store, id)
        seen.append(known(store, id))
    for expected in seen[-2::-1]:
        undo(store, id, "op")
        assert known(store, id) == expected
    assert undoable(store.events(id)) is None
    with pytest.raises(UserError, match="nothing was done to the account alice"):
        undo(store, id, "op")


def test_undo_leaves_what_the_guard_found_since(store, id):
    hold(store, POLICY, id, "less", "op", "by hand")
    store.watch(Watched(id, b"more", 41, 950.0, 1.2, 0.2, "less", 5.0, 1, "by hand", 7.0))
    undo(store, id, "op")
    watched = store.watched(id)
    assert (watched.sketch, watched.windows, watched.suspicion) == (b"more", 41, 1.2)
    assert (watched.level, watched.held, watched.reason) == ("slow", 0, "odd")


def test_clear_forgets_the_sketch_and_answers_again(store, id):
    block(store, id, "op")
    clear(store, id, "op")
    watched = store.watched(id)
    assert watched.sketch == b"" and watched.suspicion == 0 and watched.level == ""
    assert store.by_id(id).state == "active"


def test_block_and_unblock_are_logged_once(store, id):
    for step in (block, block, unblock, unblock):
        step(store, id, "op")
    assert [e["kind"] for e in store.events(id)] == ["blocked", "unblocked"]
    assert store.by_id(id).state == "active"


def test_what_is_not_there_is_refused(store, id):
    with pytest.raises(UserError, match="level: 'jail'; accepted: slow, less"):
        hold(store, POLICY, id, "jail", "op", "")
    with pytest.raises(UserError, match="tier: 'gold'; accepted: trial, trusted"):
        change_tier(store, id, "gold", ("trial", "trusted"), "op")
    with pytest.raises(UserError, match="account: 'nobody' is unknown"):
        block(store, "nobody", "op")
    assert store.events(id) == []
    change_tier(store, id, "trusted", ("trial", "trusted"), "op")
    assert store.by_id(id).tier == "trusted" and store.events(id)[0]["before"] == "trial"
