"""The guard's memory in SQLite: the default, with nothing to install.

A charge is in the file before an answer leaves, so that a killed service loses none; a machine that
loses power may lose those of its last moments. The file is
the operator's own (mode 0600); it holds no image and no key, only keyed hashes of keys.
"""

import json
import math
import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, fields
from pathlib import Path
from threading import RLock
from typing import Any, TypeVar, cast

from dpsd.errors import UserError
from dpsd.guard.storage.store import SILENT, Account, Seen, Watched
from dpsd.imports import brief

_SCHEMA = f"""
CREATE TABLE IF NOT EXISTS accounts(
  id TEXT PRIMARY KEY, name TEXT UNIQUE NOT NULL, tier TEXT NOT NULL, state TEXT NOT NULL,
  key_hash TEXT NOT NULL, made REAL NOT NULL, expires REAL, reference TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS spent(
  account TEXT NOT NULL, day INTEGER NOT NULL, images INTEGER NOT NULL, PRIMARY KEY(account, day));
CREATE TABLE IF NOT EXISTS events(
  at REAL NOT NULL, account TEXT NOT NULL, kind TEXT NOT NULL, facts TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS events_of ON events(account, at);
CREATE INDEX IF NOT EXISTS actions ON events(at) WHERE kind NOT IN {SILENT};
CREATE TABLE IF NOT EXISTS watched(
  account TEXT PRIMARY KEY, sketch BLOB NOT NULL, windows INTEGER NOT NULL, begun REAL NOT NULL,
  suspicion REAL NOT NULL, prior REAL NOT NULL, level TEXT NOT NULL, since REAL NOT NULL,
  held INTEGER NOT NULL, reason TEXT NOT NULL, updated REAL NOT NULL);
CREATE TABLE IF NOT EXISTS seen(
  account TEXT NOT NULL, kind TEXT NOT NULL, indicator TEXT NOT NULL, first REAL NOT NULL,
  last REAL NOT NULL, images INTEGER NOT NULL, PRIMARY KEY(account, kind, indicator));
"""
_CHARGE = """
INSERT INTO spent VALUES(?, ?, ?) ON CONFLICT DO UPDATE SET images = images + excluded.images
  WHERE images + excluded.images <= ? RETURNING images"""
_DAY, _ANY = 86_400, 2**62
_PATIENCE = 5  # seconds that a writer waits for another process
_REMEMBERED = 2_000  # rows; a sketch has five kilobytes

T = TypeVar("T")


class SqliteStore:
    """The guard's memory in one file; several processes may have it open."""

    def __init__(self, path: Path) -> None:
        """Open it, or make it.

        Args:
            path: of the file.

        Raises:
            UserError: the file cannot be read or is no such store.
        """
        self.path = path
        self._lock = RLock()
        self._memory: dict[tuple[str, str], object] = {}
        self._version = -1  # of the file, when the memory was read
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
            self._connect()
        except (OSError, sqlite3.Error) as e:
            raise UserError(f"{path}: no usable store ({brief(e)})") from e

    def close(self) -> None:
        """Write what is left, and let go of the file."""
        with self._lock:
            self._db.close()

    def add(self, account: Account) -> None:
        """Keep a new account.

        Raises:
            UserError: one of its name is there.
        """
        values = asdict(account)
        names = ", ".join(values)
        places = ", ".join(f":{name}" for name in values)
        try:
            with self._transaction() as db:
                db.execute(f"INSERT INTO accounts({names}) VALUES({places})", values)
        except sqlite3.IntegrityError as e:
            raise UserError(f"account: {account.name!r} is there already") from e

    def change(self, account: Account) -> None:
        """Keep an account in place of that of the same id."""
        values = asdict(account)
        sets = ", ".join(f"{name} = :{name}" for name in values if name != "id")
        with self._transaction() as db:
            db.execute(f"UPDATE accounts SET {sets} WHERE id = :id", values)

    def accounts(self) -> list[Account]:
        """All, oldest first."""
        return self._accounts("ORDER BY made, id")

    def by_id(self, id: str) -> Account | None:
        """The account, if there is one."""
        return self._kept("accounts", id, lambda: self._accounts("WHERE id = ?", id))

    def by_name(self, name: str) -> Account:
        """The account of this name.

        Raises:
            UserError: there is none.
        """
        found = next(iter(self._accounts("WHERE name = ?", name)), None)
        if found is None:
            raise UserError(f"account: {name!r} is unknown; `dpsd account list` names all")
        return found

    def charge(self, account: str, images: int, at: float, most: int | None) -> int | None:
        """Charge images to an account's day, if that stays within its limit.

        Args:
            account: its id.
            images: to be answered.
            at: seconds since 1970.
            most: images a day (UTC); None: any number.

        Returns:
            Images of the day with these; None: too many, and nothing was charged.
        """
        limit = _ANY if most is None else most
        if images > limit:
            return None
        with self._lock:
            self._same_file()
            rows = self._db.execute(_CHARGE, (account, int(at // _DAY), images, limit)).fetchall()
        return int(rows[0][0]) if rows else None

    def spent(self, account: str) -> int:
        """Images that were charged to an account, of all days."""
        with self._lock:
            row = self._db.execute("SELECT COALESCE(SUM(images), 0) FROM spent WHERE account = ?",
                                   (account,)).fetchone()  # fmt: skip
        return int(row[0])

    def note(self, account: str, kind: str, at: float, **facts: Any) -> None:
        """Write down what was done to an account, and why."""
        with self._transaction() as db:
            db.execute("INSERT INTO events VALUES(?, ?, ?, ?)",
                       (at, account, kind, json.dumps(facts)))  # fmt: skip

    def events(self, account: str) -> list[dict[str, Any]]:
        """What was done to an account, oldest first: `at`, `kind` and the facts."""
        with self._lock:
            rows = self._db.execute("SELECT at, kind, facts FROM events WHERE account = ? "
                                    "ORDER BY at, rowid", (account,)).fetchall()  # fmt: skip
        return [{"at": at, "kind": kind} | json.loads(facts) for at, kind, facts in rows]

    def recent_events(self, most: int) -> list[dict[str, Any]]:
        """What was done to all accounts, newest first: `account`, `at`, `kind` and the facts."""
        return self._recent("", most)

    def recent_actions(self, most: int) -> list[dict[str, Any]]:
        """As `recent_events`, without the kinds of `SILENT`, however many of these came since."""
        return self._recent(f"WHERE kind NOT IN {SILENT}", most)

    def _recent(self, where: str, most: int) -> list[dict[str, Any]]:
        query = (f"SELECT account, at, kind, facts FROM events {where} "
                 "ORDER BY at DESC, rowid DESC LIMIT ?")  # fmt: skip
        with self._lock:
            rows = self._db.execute(query, (most,)).fetchall()
        return [{"account": a, "at": at, "kind": kind} | json.loads(facts)
                for a, at, kind, facts in rows]  # fmt: skip

    def forget(self, account: str) -> None:
        """Delete all that is kept about an account."""
        with self._transaction() as db:
            db.execute("DELETE FROM accounts WHERE id = ?", (account,))
            for table in ("spent", "events", "watched", "seen"):
                db.execute(f"DELETE FROM {table} WHERE account = ?", (account,))

    def forget_traces(self, account: str) -> None:
        """Delete what was seen of an account; the account and its charges stay."""
        with self._transaction() as db:
            for table in ("events", "watched", "seen"):
                db.execute(f"DELETE FROM {table} WHERE account = ?", (account,))

    def watched(self, account: str) -> Watched | None:
        """What the detectors hold of an account, if it asked anything."""
        return self._kept("watched", account, lambda: self._watched("WHERE account = ?", account))

    def all_watched(self, at_least: float = -math.inf) -> list[Watched]:
        """Accounts of at least this suspicion, the most suspicious first."""
        return self._watched("WHERE suspicion >= ? ORDER BY suspicion DESC, account", at_least)

    def watch(self, watched: Watched) -> None:
        """Keep what the detectors hold of an account, in place of what was there."""
        values = asdict(watched)
        names, places = ", ".join(values), ", ".join(f":{name}" for name in values)
        with self._transaction() as db:
            db.execute(f"INSERT OR REPLACE INTO watched({names}) VALUES({places})", values)

    def saw(self, account: str, kind: str, indicator: str, at: float, images: int) -> None:
        """Keep that an account asked with an indicator, such as a network."""
        with self._transaction() as db:
            db.execute(
                "INSERT INTO seen VALUES(?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET "
                "last = excluded.last, images = images + excluded.images",
                (account, kind, indicator, at, at, images),
            )

    def seen(self, account: str | None = None) -> list[Seen]:
        """Indicators of one account or of all, first seen first."""
        where = "" if account is None else "WHERE account = ?"
        values = () if account is None else (account,)
        names = ", ".join(f.name for f in fields(Seen))
        with self._lock:
            rows = self._db.execute(f"SELECT {names} FROM seen {where} ORDER BY first, rowid",
                                    values).fetchall()  # fmt: skip
        return [Seen(*row) for row in rows]

    def usable(self) -> bool:
        """Whether charges can be written now."""
        try:
            with self._transaction() as db:
                db.execute("INSERT OR REPLACE INTO spent VALUES('', 0, 0)")
                db.execute("DELETE FROM spent WHERE account = ''")
            return True
        except sqlite3.Error:
            return False

    def _accounts(self, where: str, *values: str) -> list[Account]:
        names = ", ".join(f.name for f in fields(Account))
        with self._lock:
            rows = self._db.execute(f"SELECT {names} FROM accounts {where}", values).fetchall()
        return [Account(*row) for row in rows]

    def _watched(self, where: str, *values: str | float) -> list[Watched]:
        names = ", ".join(f.name for f in fields(Watched))
        with self._lock:
            rows = self._db.execute(f"SELECT {names} FROM watched {where}", values).fetchall()
        return [Watched(*row) for row in rows]

    def _kept(self, table: str, name: str, read: Callable[[], list[T]]) -> T | None:
        """The first row of a reading, from memory as long as nobody wrote but charges."""
        with self._lock:
            version = self._db.execute("PRAGMA data_version").fetchone()[0]  # of other writers
            if version != self._version or len(self._memory) > _REMEMBERED:
                self._memory.clear()
                self._version = version
            if (table, name) not in self._memory:
                self._memory[table, name] = next(iter(read()), None)
            return cast(T | None, self._memory[table, name])

    @contextmanager
    def together(self) -> Iterator[None]:
        """One transaction for all that this thread writes within."""
        with self._transaction():
            yield

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        """One writer at a time; all of it or nothing. Within another one it is a part of that."""
        with self._lock:
            self._memory.clear()
            if self._db.in_transaction:  # of this thread: others wait for the lock
                yield self._db
                return
            self._same_file()
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:  # a full disk ends it by itself
                    self._db.execute("ROLLBACK")
                raise
            finally:
                self._memory.clear()

    def _connect(self) -> None:
        self._db = sqlite3.connect(self.path, timeout=_PATIENCE, check_same_thread=False,
                                   isolation_level=None)  # fmt: skip
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=NORMAL")  # waiting for the disk takes milliseconds
        self._db.executescript(_SCHEMA)
        self._file = _identity(self.path)
        self._memory.clear()

    def _same_file(self) -> None:
        """Open the file again where another one lies in its place.

        Raises:
            sqlite3.OperationalError: it is gone. SQLite would write on, into a file without a name.
        """
        try:
            found = _identity(self.path)
        except OSError as e:
            raise sqlite3.OperationalError(f"{self.path} is gone") from e
        if found != self._file:
            self._db.close()
            self._connect()


def _identity(path: Path) -> tuple[int, int]:
    """Device and inode."""
    found = path.stat()
    return found.st_dev, found.st_ino
