"""Several workers, one budget: minutes are counted together in Redis."""

import threading
import time

import pytest
from limits.errors import StorageError
from redis_server import redis_server

from dpsd.guard.accounts import add_account
from dpsd.guard.limits import Limits, Tier
from dpsd.guard.storage.redis_store import RedisStore


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    with redis_server(tmp_path_factory.mktemp("redis")) as url:
        yield url


def workers(url, n, **tier):
    tiers = {"trial": Tier(**({"per_minute": 100} | tier))}
    return [Limits(tiers, 1_000, 1_000, RedisStore(url), url) for _ in range(n)]


def test_two_workers_share_an_accounts_minute(address):
    one, other = workers(address, 2)
    alice, _ = add_account(one.store, bytes(32), "alice", "trial")
    assert one.charge(alice, "n", 60) is None and other.charge(alice, "n", 40) is None
    refusal = one.charge(alice, "n", 1)
    assert refusal.code == "rate_limited" and 1 <= refusal.retry_after <= 61
    assert one.store.spent(alice.id) == 100


def test_workers_that_race_never_pass_a_minute_and_refused_images_are_given_back(address):
    gates = workers(address, 4)
    bob, _ = add_account(gates[0].store, bytes(32), "bob", "trial")
    answered, start = [], threading.Barrier(4)

    def work(gate):
        start.wait()
        for _ in range(20):
            answered.append(7 if gate.charge(bob, "elsewhere", 7) is None else 0)

    threads = [threading.Thread(target=work, args=(g,)) for g in gates]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert 0 < sum(answered) <= 100 and gates[0].store.spent(bob.id) == sum(answered)


def test_a_worker_that_was_slower_is_refused_and_gets_its_day_back(address, monkeypatch):
    """Both looked before either charged: the second finds the minute spent."""
    one, other = workers(address, 2, per_day=150)
    eve, _ = add_account(one.store, bytes(32), "eve", "trial")
    assert one.charge(eve, "m", 60) is None
    with monkeypatch.context() as patch:
        patch.setattr(other, "_has_room", lambda *a: True)
        assert other.charge(eve, "m", 60).code == "rate_limited"
    assert one.store.spent(eve.id) == 60 and other.charge(eve, "m", 40) is None


def test_nothing_is_counted_without_redis(tmp_path):
    with redis_server(tmp_path) as url:
        (gate,) = workers(url, 1)
        alice, _ = add_account(gate.store, bytes(32), "alice", "trial")
        assert gate.charge(alice, "n", 1) is None
    began = time.monotonic()
    with pytest.raises(StorageError):
        gate.charge(alice, "n", 1)
    assert time.monotonic() - began < 60  # it does not hang
