"""Both stores keep the same promises: SQLite and Redis, by the same tests."""

import math
import multiprocessing
import threading
from contextlib import ExitStack
from dataclasses import replace

import pytest
from redis_server import redis_server

from dpsd.errors import UserError
from dpsd.guard.accounts import add_account, rotate_key, who
from dpsd.guard.actions import forget_old
from dpsd.guard.storage.redis_store import RedisStore
from dpsd.guard.storage.sqlite_store import SqliteStore
from dpsd.guard.storage.store import Account, Seen, StoreError, Watched
from dpsd.guard.storage.stores import open_store, shared_address

PEPPER = bytes(range(32))


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    with redis_server(tmp_path_factory.mktemp("redis")) as url:
        yield url


@pytest.fixture(params=["sqlite", "redis"])
def place(request, tmp_path):
    """Where an empty store is."""
    if request.param == "sqlite":
        return str(tmp_path / "guard" / "guard.sqlite")
    url = request.getfixturevalue("address")
    RedisStore(url)._db.flushdb()
    return url


@pytest.fixture
def store(place, tmp_path):
    opened = open_store(place, tmp_path / "unused")
    yield opened
    opened.close()


def test_the_address_says_which_store(store, place, tmp_path):
    assert isinstance(store, RedisStore if "://" in place else SqliteStore) and store.usable()
    assert shared_address(place) == (place if "://" in place else None)
    assert not (tmp_path / "unused").exists()


def test_accounts_and_keys(store):
    alice, key = add_account(store, PEPPER, "alice", "trial", reference="contract 7")
    bob, _ = add_account(store, PEPPER, "bob", "trusted", expires=1e9 + 0.1)
    assert who(store, PEPPER, key) == alice and store.by_id(bob.id) == bob
    assert store.accounts() == [alice, bob] and store.by_name("bob") == bob
    new = rotate_key(store, PEPPER, "alice")
    assert who(store, PEPPER, key) is None and who(store, PEPPER, new).id == alice.id
    with pytest.raises(UserError, match="'alice' is there already"):
        add_account(store, PEPPER, "alice", "trial")
    with pytest.raises(UserError, match="'eve' is unknown"):
        store.by_name("eve")
    assert store.by_id("nobody") is None


def test_a_changed_account_takes_the_place_of_the_old_one(store):
    alice, _ = add_account(store, PEPPER, "alice", "trial")
    renamed = replace(alice, name="carol", state="blocked")
    store.change(renamed)
    store.change(Account("stranger", "x", "trial", "active", "", 0.0))  # changes nothing
    assert store.accounts() == [renamed] and store.by_name("carol") == renamed
    add_account(store, PEPPER, "alice", "trial")  # the name is free again


def test_accounts_are_told_oldest_first(store):
    made = [Account(id, id, "trial", "active", "", at) for id, at in
            (("c", 3.0), ("b", 1.0), ("a", 3.0), ("d", 2.5))]  # fmt: skip
    for account in made:
        store.add(account)
    assert [a.id for a in store.accounts()] == ["b", "d", "a", "c"]


def test_a_day_is_charged_whole_or_not_at_all(store):
    assert store.charge("a", 6, 10.0, 10) == 6
    assert store.charge("a", 5, 20.0, 10) is None and store.spent("a") == 6
    assert store.charge("a", 4, 30.0, 10) == 10
    assert store.charge("a", 10, 86_400.0, 10) == 10  # the next day
    assert store.charge("b", 10, 30.0, None) == 10
    assert store.charge("a", -3, 30.0, None) == 7  # given back
    assert store.spent("a") == 17 and store.spent("nobody") == 0


def test_charges_of_threads_add_up(store):
    def work():
        for _ in range(25):
            store.charge("a", 2, 0.0, None)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert store.spent("a") == 3 * 25 * 2


def _charge_all(place, default):
    store = open_store(place, default)
    while store.charge("a", 3, 0.0, 1_000) is not None:
        pass
    store.close()


def test_two_processes_never_pass_one_limit(store, place, tmp_path):
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=_charge_all, args=(place, tmp_path)) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert [w.exitcode for w in workers] == [0, 0] and store.spent("a") == 999


def test_workers_on_one_redis_take_a_solution_once(address):
    one, other = RedisStore(address), RedisStore(address)
    one._db.flushdb()
    assert one.take("puzzle a", 1_010.0, 1_000.0) and not other.take("puzzle a", 1_010.0, 1_000.0)
    assert other.take("puzzle b", 1_010.0, 1_000.0)
    (key, _) = sorted(one._db.keys("dpsd:used:*"))
    assert 0 < one._db.ttl(key) <= 11  # it is forgotten once the puzzle has expired


def test_events_are_in_order_and_have_their_facts(store):
    for number in range(12):  # equal times are told in the order of writing
        store.note("a", "window", 1.5, number=number)
    store.note("b", "level", 0.1 + 0.2, reason="a ü", suspicion=None)
    store.note("a", "earlier", 1.25)
    assert [e.get("number") for e in store.events("a")] == [None, *range(12)]
    assert store.events("b") == [
        {"at": 0.1 + 0.2, "kind": "level", "reason": "a ü", "suspicion": None}
    ]
    newest = store.recent_events(3)
    assert [e["number"] for e in newest] == [11, 10, 9] and newest[0]["account"] == "a"
    assert len(store.recent_events(100)) == 14 and store.recent_events(0) == []
    assert [e["kind"] for e in store.recent_actions(9)] == ["earlier", "level"]
    assert [e["kind"] for e in store.recent_actions(1)] == ["earlier"]
    assert store.recent_actions(0) == []
    store.forget_traces("b")
    assert [e["account"] for e in store.recent_actions(9)] == ["a"]


def test_watched_accounts_come_back_as_they_were(store):
    everything = bytes(range(256)) * 3 + b"\n\n{"
    rows = [Watched("a", everything, 3, 0.1 + 0.2, 0.75, 0.5, "slow", 7.5, 1, "a\nreason", 8.5),
            Watched("b", b"", suspicion=1.25), Watched("c", b"x"),
            Watched("d", b"y", suspicion=0.75)]  # fmt: skip
    for row in rows:
        store.watch(row)
    assert [store.watched(r.account) for r in rows] == rows and store.watched("e") is None
    assert [w.account for w in store.all_watched()] == ["b", "a", "d", "c"]
    assert [w.account for w in store.all_watched(0.75)] == ["b", "a", "d"]
    store.watch(replace(rows[1], suspicion=0.0))
    assert store.all_watched(1.0) == [] and len(store.all_watched(-math.inf)) == 4


def test_indicators_add_up(store):
    store.saw("a", "network", "n1", 5.5, 3)
    store.saw("b", "network", "n1", 4.25, 1)
    store.saw("a", "agent", "a b", 5.5, 2)
    store.saw("a", "network", "n1", 7.0, 4)
    assert store.seen("a") == [Seen("a", "network", "n1", 5.5, 7.0, 7),
                               Seen("a", "agent", "a b", 5.5, 5.5, 2)]  # fmt: skip
    assert [s.account for s in store.seen()] == ["b", "a", "a"] and store.seen("c") == []


def test_forgetting_leaves_nothing(store):
    alice, key = add_account(store, PEPPER, "alice", "trial")
    bob, _ = add_account(store, PEPPER, "bob", "trial")
    for id in (alice.id, bob.id):
        store.charge(id, 5, 0.0, None)
        store.note(id, "slowed", 1.0, reason="rate")
        store.watch(Watched(id, b"x", suspicion=1.0))
        store.saw(id, "network", "n", 1.0, 1)
    store.forget(alice.id)
    assert who(store, PEPPER, key) is None and store.accounts() == [bob]
    assert store.spent(alice.id) == 0 and store.events(alice.id) == []
    assert [w.account for w in store.all_watched()] == [bob.id] and store.seen(alice.id) == []
    assert [s.account for s in store.seen()] == [bob.id]
    assert [e["account"] for e in store.recent_events(9)] == [bob.id]
    add_account(store, PEPPER, "alice", "trial")
    if isinstance(store, RedisStore):
        names = b" ".join(store._db.keys())
        assert alice.id.encode() not in names


def test_redis_gone_and_back(tmp_path):
    """Charges of an append-only Redis survive its end; without it nothing is charged."""
    with ExitStack() as stack:
        url = stack.enter_context(redis_server(tmp_path, "--appendonly", "yes",
                                               "--appendfsync", "always"))  # fmt: skip
        store = RedisStore(url)
        assert store.charge("a", 7, 0.0, 10) == 7 and "every charge" in store.durability()
        stack.close()
        assert not store.usable()
        with pytest.raises(StoreError):
            store.charge("a", 1, 0.0, 10)
    port = int(url.rsplit(":", 1)[1].split("/")[0])
    with redis_server(tmp_path, "--appendonly", "yes", port=port):
        assert store.usable() and "each second" in store.durability()
        assert store.charge("a", 4, 0.0, 10) is None and store.charge("a", 3, 0.0, 10) == 10


def test_a_redis_that_keeps_nothing_says_so(address):
    assert "no append-only file" in RedisStore(address).durability()


@pytest.mark.parametrize(
    ("place", "says"),
    [
        ("http://127.0.0.1:1", "http://; accepted: redis://"),
        ("redis://user:secret@127.0.0.1:1/0", "no usable store"),
        ("redis://127.0.0.1:none/0", "no usable store"),
    ],
)
def test_bad_addresses_are_one_line_without_the_password(place, says, tmp_path, monkeypatch):
    monkeypatch.setenv("DPSD_STORE", place)
    for given in (place, None):  # as an option, or in the environment
        with pytest.raises(UserError) as e:
            open_store(given, tmp_path / "guard.sqlite")
        assert says in str(e.value) and "\n" not in str(e.value) and "secret" not in str(e.value)


def test_what_was_seen_of_an_old_account_is_deleted_and_its_charges_stay(store):
    old, new, held = (add_account(store, PEPPER, name, "t")[0] for name in ("old", "new", "held"))
    for account, at, by_hand in ((old, 100.0, 0), (new, 900.0, 0), (held, 100.0, 1)):
        store.watch(Watched(account.id, b"s", updated=at, held=by_hand))
        store.note(account.id, "window", at)
        store.saw(account.id, "network", "n", at, 3)
        store.charge(account.id, 3, at, None)
    assert forget_old(store, 500.0) == 1
    assert store.watched(old.id) is None and store.events(old.id) == store.seen(old.id) == []
    assert store.spent(old.id) == 3 and store.by_id(old.id) == old
    for account in (new, held):
        assert store.watched(account.id) and store.events(account.id) and store.seen(account.id)
    assert {event["account"] for event in store.recent_events(9)} == {new.id, held.id}
