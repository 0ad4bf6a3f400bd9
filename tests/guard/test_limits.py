"""Limits count images: of accounts, networks, the service, and days."""

import pytest

from dpsd.guard.accounts import add_account
from dpsd.guard.limits import Limits, Tier
from dpsd.guard.storage.sqlite_store import SqliteStore

PEPPER = bytes(32)


@pytest.fixture
def store(tmp_path):
    opened = SqliteStore(tmp_path / "guard.sqlite")
    yield opened
    opened.close()


def limits(store, network=1_000, in_all=1_000, **tier):
    return Limits({"trial": Tier(**({"per_minute": 10} | tier))}, network, in_all, store)


def account(store, name="alice", tier="trial"):
    return add_account(store, PEPPER, name, tier)[0]


def test_images_are_counted_and_not_requests(store):
    gate, alice = limits(store), account(store)
    assert gate.charge(alice, "n", 7) is None
    refusal = gate.charge(alice, "n", 4)
    assert refusal.code == "rate_limited" and 1 <= refusal.retry_after <= 61
    assert gate.charge(alice, "n", 3) is None  # what is left of ten
    assert gate.charge(alice, "n", 1).code == "rate_limited"
    assert store.spent(alice.id) == 10


def test_a_refused_request_costs_nothing_anywhere(store):
    gate, alice, bob = limits(store, network=12), account(store), account(store, "bob")
    assert gate.charge(alice, "n", 10) is None
    assert "network" in gate.charge(bob, "n", 5).message  # bob's own window stays full
    assert gate.charge(bob, "elsewhere", 10) is None
    assert store.spent(bob.id) == 10


def test_the_service_as_a_whole(store):
    gate = limits(store, in_all=15)
    assert gate.charge(account(store), "n", 10) is None
    assert "service" in gate.charge(account(store, "bob"), "m", 6).message


def test_a_request_that_no_minute_can_hold(store):
    refusal = limits(store).charge(account(store), "n", 11)
    assert refusal.code == "too_many_images" and refusal.retry_after is None


def test_the_day_lies_in_the_store_and_survives_a_restart(store):
    alice = account(store)
    assert limits(store, per_day=8).charge(alice, "n", 8) is None
    again = limits(store, per_day=8).charge(alice, "n", 1)  # rates are forgotten, days are not
    assert again.code == "daily_limit" and 1 <= again.retry_after <= 86_401


def test_a_tier_that_was_removed_is_refused(store):
    assert limits(store).charge(account(store, tier="gold"), "n", 1).code == "unknown_tier"


def test_wrong_keys_of_a_network_are_limited(store):
    gate = limits(store)
    assert all(gate.may_guess("n") and gate.guessed("n") is None for _ in range(10))
    assert not gate.may_guess("n") and gate.guessed("n").code == "too_many_keys"
    assert gate.may_guess("m")


class Clock:
    """Time of day and time since the start, which tests move."""

    def __init__(self, monkeypatch):
        self.day, self.run = 1_700_000_000.0, 5_000.0
        monkeypatch.setattr("time.time", lambda: self.day)
        monkeypatch.setattr("time.monotonic", lambda: self.run)

    def passes(self, seconds):
        self.day, self.run = self.day + seconds, self.run + seconds


def test_a_clock_that_is_set_back_locks_nobody_out(store, monkeypatch):
    clock = Clock(monkeypatch)
    gate, alice = limits(store), account(store)
    assert gate.charge(alice, "n", 10) is None
    clock.day -= 7_200  # two hours back
    assert gate.charge(alice, "n", 10) is None  # one minute is forgiven, once
    refusal = gate.charge(alice, "n", 1)
    assert refusal.code == "rate_limited" and refusal.retry_after <= 61
    clock.passes(61)
    assert gate.charge(alice, "n", 10) is None


def test_a_clock_that_is_set_back_gives_no_second_day(store, monkeypatch):
    clock = Clock(monkeypatch)
    gate, alice = limits(store, per_day=8), account(store)
    assert gate.charge(alice, "n", 8) is None
    for hours in (-30, 30):  # back to yesterday, and to today
        clock.day += hours * 3_600
        clock.passes(61)
        spent = gate.charge(alice, "n", 8)
    assert spent.code == "daily_limit" and store.spent(alice.id) == 16


def test_wrong_keys_are_counted_while_the_clock_is_set_back(store, monkeypatch):
    clock = Clock(monkeypatch)
    gate = limits(store)
    for _ in range(10):
        gate.guessed("n")
    assert not gate.may_guess("n")
    clock.day -= 3_600
    assert gate.may_guess("n")  # and is not closed for an hour
