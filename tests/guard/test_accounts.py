"""Accounts, keys, charges: what is kept, and what survives."""

import sqlite3
import stat
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from dpsd.errors import UserError
from dpsd.guard.accounts import add_account, read_pepper, rotate_key, who
from dpsd.guard.storage.sqlite_store import SqliteStore
from dpsd.guard.storage.store import Watched

PEPPER = bytes(range(32))


@pytest.fixture
def store(tmp_path):
    opened = SqliteStore(tmp_path / "guard" / "guard.sqlite")
    yield opened
    opened.close()


def test_a_key_opens_its_account_and_no_other(store):
    alice, key = add_account(store, PEPPER, "alice", "trial")
    bob, other = add_account(store, PEPPER, "bob", "trusted", reference="contract 7")
    assert who(store, PEPPER, key) == alice and who(store, PEPPER, other) == bob
    secret = key.split("_", 2)[2]
    wrong = [
        "", "dpsd", key[:-1], key + "x", key.upper(), f"dpsd_{bob.id}_{secret}", f"dpsd__{secret}",
        f"dpsd_{alice.id}_", f"x_{alice.id}_{secret}", "dpsd_%_" + secret, key.replace("_", "-"),
    ]  # fmt: skip
    assert [who(store, PEPPER, k) for k in wrong] == [None] * len(wrong)
    assert who(store, bytes(32), key) is None  # another pepper


def test_keys_have_256_random_bits_and_are_not_stored(store):
    keys = [add_account(store, PEPPER, str(n), "trial")[1] for n in range(20)]
    secrets = [key.split("_", 2)[2] for key in keys]
    assert len(set(secrets)) == 20 and {len(s) for s in secrets} == {43}  # 32 bytes in base64
    store.close()
    kept = b"".join(p.read_bytes() for p in store.path.parent.iterdir())
    assert not any(s.encode() in kept for s in secrets)
    assert stat.S_IMODE(store.path.stat().st_mode) == 0o600


def test_a_rotated_key_is_void_at_once(store):
    _, old = add_account(store, PEPPER, "alice", "trial")
    new = rotate_key(store, PEPPER, "alice")
    assert who(store, PEPPER, old) is None and who(store, PEPPER, new) is not None
    assert [e["kind"] for e in store.events(store.by_name("alice").id)] == ["key rotated"]


def test_names_are_unique_and_printable(store):
    add_account(store, PEPPER, "alice", "trial")
    for name in ("alice", "", "a\nb", "x" * 101):
        with pytest.raises(UserError, match="account: "):
            add_account(store, PEPPER, name, "trial")
    with pytest.raises(UserError, match="'eve' is unknown"):
        store.by_name("eve")


def test_forgetting_leaves_nothing(store):
    account, key = add_account(store, PEPPER, "alice", "trial")
    store.charge(account.id, 5, 0.0, None)
    store.note(account.id, "slowed", 1.0, reason="rate")
    store.forget(account.id)
    assert who(store, PEPPER, key) is None and store.accounts() == []
    assert store.spent(account.id) == 0 and store.events(account.id) == []


def test_a_day_is_charged_whole_or_not_at_all(store):
    assert store.charge("a", 6, 10.0, 10) == 6
    assert store.charge("a", 5, 20.0, 10) is None and store.spent("a") == 6
    assert store.charge("a", 4, 30.0, 10) == 10
    assert store.charge("a", 10, 86_400.0, 10) == 10  # the next day
    assert store.charge("b", 10, 30.0, 10) == 10
    assert store.spent("a") == 20


def test_charges_of_many_threads_and_two_processes_add_up(store, tmp_path):
    others = [SqliteStore(store.path) for _ in range(2)]

    def work(one):
        for _ in range(25):
            one.charge("a", 2, 0.0, None)

    threads = [threading.Thread(target=work, args=(s,)) for s in [store, *others]]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert store.spent("a") == 3 * 25 * 2


def test_a_killed_process_loses_no_charge(tmp_path):
    path = tmp_path / "g" / "guard.sqlite"
    code = (
        "import os, signal; from pathlib import Path\n"
        "from dpsd.guard.storage.sqlite_store import SqliteStore\n"
        f"s = SqliteStore(Path({str(path)!r})); s.charge('a', 7, 0.0, None)\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=False)
    assert done.returncode == -9
    assert SqliteStore(path).spent("a") == 7


def test_the_pepper_is_made_once_and_checked(tmp_path):
    path = tmp_path / "guard" / "pepper"
    assert read_pepper(path) == read_pepper(path) and len(read_pepper(path)) == 32
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    path.write_bytes(b"short")
    with pytest.raises(UserError, match="5 bytes; accepted: 32"):
        read_pepper(path)


def test_a_file_that_is_no_store_is_one_line(tmp_path):
    path = tmp_path / "guard.sqlite"
    path.write_bytes(b"not a database, but long enough to be looked at" * 100)
    with pytest.raises(UserError, match="no usable store"):
        SqliteStore(path)


def test_a_store_that_cannot_be_written_says_so(store, tmp_path):
    quick = SqliteStore(store.path)
    quick._db.execute("PRAGMA busy_timeout = 0")  # without patience
    assert quick.usable()
    blocker = sqlite3.connect(store.path)
    blocker.execute("BEGIN EXCLUSIVE")
    assert not quick.usable()
    blocker.rollback()
    assert quick.usable()
    assert Path(store.path).is_file()


def test_what_another_connection_writes_holds_at_once(store):
    """The store keeps rows in memory; an operator's command is another process."""
    account, _ = add_account(store, bytes(32), "bob", "trial")
    other = SqliteStore(store.path)
    assert store.by_id(account.id).state == "active" and store.watched(account.id) is None
    other.change(replace(account, state="blocked"))
    assert store.by_id(account.id).state == "blocked"
    other.watch(Watched(account.id, b"", level="slow"))
    assert store.watched(account.id).level == "slow"
    other.forget(account.id)
    assert store.by_id(account.id) is None and store.watched(account.id) is None


def test_a_transaction_that_fails_leaves_nothing_in_memory(store):
    account, _ = add_account(store, bytes(32), "bob", "trial")
    with pytest.raises(RuntimeError), store.together():
        store.change(replace(account, state="blocked"))
        assert store.by_id(account.id).state == "blocked"
        store.change(replace(account, state="active", tier="open"))
        assert store.by_id(account.id).tier == "open"
        raise RuntimeError
    assert store.by_id(account.id) == account


def test_a_charge_alone_and_one_beyond_the_day(store):
    assert store.charge("bob", 5, 0.0, 4) is None and store.spent("bob") == 0
    assert store.charge("bob", 3, 0.0, 4) == 3 and store.charge("bob", 2, 0.0, 4) is None
    assert store.charge("bob", 1, 0.0, 4) == 4 and store.charge("bob", -1, 0.0, None) == 3
    assert store.charge("bob", 4, 86_400.0, 4) == 4 and store.spent("bob") == 7
