"""Turns to a new model: one account that moves is told, a launch for all is not."""

import numpy as np

from dpsd.guard.apps.turns import Turns


def others(turns, rng, models, questions=2_000, accounts=50):
    for _ in range(questions):
        turns.asked(f"user{rng.integers(accounts)}", str(rng.choice(models)))


def test_an_account_that_moves_alone_is_told_once():
    turns, rng = Turns(), np.random.default_rng(0)
    others(turns, rng, ["a"] * 19 + ["new"])
    assert not [t for _ in range(100) if (t := turns.asked("eve", "a"))]
    found = [t for _ in range(60) if (t := turns.asked("eve", "new"))]
    assert len(found) == 1
    assert found[0].model == "new" and found[0].share >= 0.5 and found[0].before == 0
    assert found[0].p_value <= 1e-6


def test_a_launch_to_which_everybody_moves_is_no_turn():
    turns, rng = Turns(), np.random.default_rng(1)
    others(turns, rng, ["a"], questions=5_000)
    told = 0
    for _ in range(6_000):
        told += turns.asked(f"user{rng.integers(50)}", "new") is not None
    # The first accounts move before the others do; those that follow are told of no more.
    assert told <= 3


def test_accounts_that_use_both_models_and_new_accounts_are_left_alone():
    turns, rng = Turns(), np.random.default_rng(2)
    others(turns, rng, ["a", "a", "a", "b"], questions=5_000, accounts=20)
    assert not [t for _ in range(60) if (t := turns.asked("fresh", "b"))]
    assert not [t for k in range(400) if (t := turns.asked("both", "ab"[k % 3 == 0]))]


def test_memory_is_bounded(monkeypatch):
    monkeypatch.setattr("dpsd.guard.apps.turns._ACCOUNTS", 10)
    turns = Turns()
    for k in range(300):
        turns.asked(f"u{k}", "a")
        turns.asked("same", f"model{k}")  # a client chooses names
    assert len(turns._accounts) == 10 and len(turns._accounts["same"].earlier) <= 64
