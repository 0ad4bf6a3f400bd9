"""A store that fails: a full disk, a file that is gone and comes back."""

import os
import shutil
import sqlite3

import pytest

from dpsd.guard.accounts import add_account
from dpsd.guard.storage.sqlite_store import SqliteStore


@pytest.fixture
def store(tmp_path):
    opened = SqliteStore(tmp_path / "guard.sqlite")
    yield opened
    opened.close()


def test_a_full_disk_is_told_and_passes(store):
    store.charge("alice", 3, 0.0, None)
    pages = store._db.execute("PRAGMA page_count").fetchone()[0]
    store._db.execute(f"PRAGMA max_page_count = {pages}")  # no page more: SQLITE_FULL
    with pytest.raises(sqlite3.OperationalError, match="full"):
        for k in range(1_000):
            store.note("alice", "long", 0.0, text="x" * 5_000 + str(k))
    assert store.spent("alice") == 3
    with pytest.raises(sqlite3.OperationalError, match="full"):
        store.note("alice", "long", 0.0, text="x" * 50_000)
    store._db.execute("PRAGMA max_page_count = 1000000")
    assert store.usable() and store.charge("alice", 3, 0.0, None) == 6


def test_a_file_that_is_gone_takes_no_charge_and_is_found_when_it_is_back(store, tmp_path):
    alice, _ = add_account(store, bytes(32), "alice", "trial")
    store.charge(alice.id, 3, 0.0, 10)
    store._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    shutil.copy(store.path, tmp_path / "backup")
    store.path.unlink()
    assert not store.usable() and not store.path.exists()
    with pytest.raises(sqlite3.OperationalError, match="is gone"):
        store.charge(alice.id, 1, 0.0, 10)
    for name in ("guard.sqlite-wal", "guard.sqlite-shm"):
        (tmp_path / name).unlink(missing_ok=True)
    os.rename(tmp_path / "backup", store.path)
    assert store.usable() and store.charge(alice.id, 1, 0.0, 10) == 4
    other = SqliteStore(store.path)  # it is this file that is written
    assert other.spent(alice.id) == 4
    other.close()


def test_a_folder_that_takes_no_writes_is_not_usable(store, monkeypatch):
    """A file system that is full or read-only fails where SQLite writes its log."""

    def refuse(operation, *_):
        return sqlite3.SQLITE_DENY if operation == sqlite3.SQLITE_INSERT else sqlite3.SQLITE_OK

    store._db.set_authorizer(refuse)
    assert not store.usable()  # a question that writes nothing would pass
    store._db.set_authorizer(None)
    assert store.usable()
