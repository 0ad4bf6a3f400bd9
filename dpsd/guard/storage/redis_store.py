"""The guard's memory in Redis or Valkey, for several processes or machines.

Every change is one script that Redis runs whole, so that two workers never pass a limit together.
A charge is as durable as Redis is told to be: `durability` says how durable that is.
"""

import hashlib
import json
import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, replace
from typing import Any

from dpsd.errors import UserError
from dpsd.guard.storage.redis_scripts import (
    ADD,
    CHANGE,
    CHARGE,
    FORGET,
    FORGET_TRACES,
    NOTE,
    SAW,
    WATCH,
)
from dpsd.guard.storage.store import SILENT, Account, Seen, StoreError, Watched
from dpsd.imports import brief

_DAY = 86_400
_PATIENCE = 5  # seconds that a command waits
_PART = 1_000  # accounts fetched at once
_KEYS = "dpsd:"  # of all keys; one service has a database of its own


class RedisStore:
    """The guard's memory in a database of Redis or Valkey; many processes may use it.

    Every method raises `StoreError` where Redis does not answer, or refuses to write.
    """

    def __init__(self, url: str) -> None:
        """Reach it.

        Args:
            url: redis://[[user]:password@]host[:port][/database], rediss:// with TLS, unix:// for
                a socket, or valkey:// and valkeys://.

        Raises:
            UserError: the address is malformed, or Redis does not answer; one line, without the
                password.
        """
        import redis
        from redis.backoff import NoBackoff
        from redis.retry import Retry

        self._errors = redis.RedisError
        self.url = url.replace("valkey", "redis", 1) if url.startswith("valkey") else url
        self.place = self.url.split("@")[-1] if "@" in self.url else self.url
        try:
            self._db = redis.Redis.from_url(
                self.url, socket_timeout=_PATIENCE, socket_connect_timeout=_PATIENCE,
                retry=Retry(NoBackoff(), 1), protocol=2,
            )  # fmt: skip
            self._db.ping()
            self._run = {
                text: self._db.register_script(text)
                for text in (ADD, CHANGE, CHARGE, FORGET, FORGET_TRACES, NOTE, SAW, WATCH)
            }
        except (ValueError, redis.RedisError) as e:
            raise UserError(f"--store {self.place}: no usable store ({brief(e)})") from e

    def durability(self) -> str:
        """What a crash of Redis itself may lose, in one sentence."""
        with self._asked():
            info: dict[str, Any] = self._db.info("persistence")
        if not info.get("aof_enabled"):
            return (
                "Redis writes no append-only file: a crash of Redis forgives the charges since its "
                "last snapshot; set appendonly yes"
            )
        try:
            how = dict(self._db.config_get("appendfsync")).get("appendfsync")
        except self._errors:  # a hosted Redis may hide its settings
            return "Redis writes an append-only file; how often it syncs is hidden"
        if how in ("always", b"always"):
            return "Redis syncs every charge to disk before it is answered"
        if how in ("everysec", b"everysec"):
            return "Redis syncs its append-only file each second: a power cut loses a second"
        return "Redis leaves the syncing of its append-only file to the operating system"

    def close(self) -> None:
        """Let go of the connections."""
        self._db.close()

    def usable(self) -> bool:
        """Whether charges can be written now."""
        try:
            self._db.set(f"{_KEYS}usable", 1)
            return True
        except self._errors:
            return False

    def take(self, challenge: str, until: float, now: float) -> bool:
        """Mark the challenge of a puzzle as used, for all workers; False: it was used."""
        name = hashlib.sha256(challenge.encode()).hexdigest()
        seconds = max(1, math.ceil(until - now) + 1)
        return bool(self._call("set", f"used:{name}", 1, seconds, None, True))

    def add(self, account: Account) -> None:
        """Keep a new account.

        Raises:
            UserError: one of its name is there.
        """
        text = json.dumps(asdict(account))
        if not self._script(ADD, ("accounts", "names"), account.id, account.name, text):
            raise UserError(f"account: {account.name!r} is there already")

    def change(self, account: Account) -> None:
        """Keep an account in place of that of the same id."""
        text = json.dumps(asdict(account))
        self._script(CHANGE, ("accounts", "names"), account.id, account.name, text)

    def accounts(self) -> list[Account]:
        """All, oldest first."""
        found = [_account(text) for text in self._call("hvals", "accounts")]
        return sorted(found, key=lambda account: (account.made, account.id))

    def by_id(self, id: str) -> Account | None:
        """The account, if there is one."""
        text = self._call("hget", "accounts", id)
        return None if text is None else _account(text)

    def by_name(self, name: str) -> Account:
        """The account of this name.

        Raises:
            UserError: there is none.
        """
        id = self._call("hget", "names", name)
        found = None if id is None else self.by_id(id.decode())
        if found is None:
            raise UserError(f"account: {name!r} is unknown; `dpsd account list` names all")
        return found

    def forget(self, account: str) -> None:
        """Delete all that is kept about an account."""
        names = ("accounts", "names", "events", "happened", f"happened:{account}",
                 f"spent:{account}", "watched", "suspicion", "seen", f"seen:{account}",
                 "actions")  # fmt: skip
        self._script(FORGET, names, account)

    def forget_traces(self, account: str) -> None:
        """Delete what was seen of an account; the account and its charges stay."""
        names = ("events", "happened", f"happened:{account}", "watched", "suspicion", "seen",
                 f"seen:{account}", "actions")  # fmt: skip
        self._script(FORGET_TRACES, names, account)

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
        limit = -1 if most is None else most
        total = self._script(CHARGE, (f"spent:{account}",), int(at // _DAY), images, limit)
        return None if total is None else int(total)

    def spent(self, account: str) -> int:
        """Images that were charged to an account, of all days."""
        return sum(map(int, self._call("hvals", f"spent:{account}")))

    def note(self, account: str, kind: str, at: float, **facts: Any) -> None:
        """Write down what was done to an account, and why."""
        text = json.dumps({"account": account, "at": at, "kind": kind} | facts)
        names = ("event", "events", "happened", f"happened:{account}")
        self._script(NOTE, names if kind in SILENT else (*names, "actions"), repr(at), text)

    def events(self, account: str) -> list[dict[str, Any]]:
        """What was done to an account, oldest first: `at`, `kind` and the facts."""
        found = self._events(self._call("zrange", f"happened:{account}", 0, -1))
        return [{k: v for k, v in event.items() if k != "account"} for event in found]

    def recent_events(self, most: int) -> list[dict[str, Any]]:
        """What was done to all accounts, newest first: `account`, `at`, `kind` and the facts."""
        return self._recent("happened", most)

    def recent_actions(self, most: int) -> list[dict[str, Any]]:
        """As `recent_events`, without the kinds of `SILENT`, however many of these came since."""
        return self._recent("actions", most)

    def _recent(self, name: str, most: int) -> list[dict[str, Any]]:
        return self._events(self._call("zrevrange", name, 0, most - 1)) if most > 0 else []

    def watched(self, account: str) -> Watched | None:
        """What the detectors hold of an account, if it asked anything."""
        kept = self._call("hget", "watched", account)
        return None if kept is None else _watched(kept)

    def all_watched(self, at_least: float = -math.inf) -> list[Watched]:
        """Accounts of at least this suspicion, the most suspicious first."""
        ids = self._call("zrangebyscore", "suspicion", at_least, "+inf")
        kept = (text for part in _parts(ids) for text in self._call("hmget", "watched", part))
        found = [_watched(text) for text in kept if text is not None]
        return sorted(found, key=lambda w: (-w.suspicion, w.account))

    def watch(self, watched: Watched) -> None:
        """Keep what the detectors hold of an account, in place of what was there."""
        facts = asdict(replace(watched, sketch=b"")) | {"sketch": None}
        kept = json.dumps(facts).encode() + b"\n" + watched.sketch
        score = repr(float(watched.suspicion))
        self._script(WATCH, ("watched", "suspicion"), watched.account, kept, score)

    def together(self) -> AbstractContextManager[object]:
        """Nothing more: every change is written by itself."""
        return nullcontext()

    def saw(self, account: str, kind: str, indicator: str, at: float, images: int) -> None:
        """Keep that an account asked with an indicator, such as a network."""
        names = ("event", "seen", f"seen:{account}")
        self._script(SAW, names, account, json.dumps([kind, indicator]), repr(at), images)

    def seen(self, account: str | None = None) -> list[Seen]:
        """Indicators of one account or of all, first seen first."""
        ids = self._call("smembers", "seen") if account is None else [account.encode()]
        found = list[tuple[float, int, Seen]]()
        for part in _parts(sorted(ids)):
            with self._asked():
                asked = self._db.pipeline(transaction=False)
                for id in part:
                    asked.hgetall(f"{_KEYS}seen:{id.decode()}")
                rows = asked.execute()
            for id, row in zip(part, rows, strict=True):
                for name, value in row.items():
                    kind, indicator = json.loads(name)
                    first, last, images, place = value.split()
                    seen = Seen(id.decode(), kind, indicator, float(first), float(last),
                                int(images))  # fmt: skip
                    found.append((float(first), int(place), seen))
        return [seen for _, _, seen in sorted(found, key=lambda f: f[:2])]

    def _events(self, places: Sequence[bytes]) -> list[dict[str, Any]]:
        kept = (text for part in _parts(places) for text in self._call("hmget", "events", part))
        return [json.loads(text) for text in kept if text is not None]

    def _call(self, command: str, name: str, *values: Any) -> Any:
        with self._asked():
            return getattr(self._db, command)(_KEYS + name, *values)

    def _script(self, text: str, names: Iterable[str], *values: Any) -> Any:
        with self._asked():
            return self._run[text](keys=[_KEYS + name for name in names], args=values)

    @contextmanager
    def _asked(self) -> Iterator[None]:
        try:
            yield
        except self._errors as e:
            raise StoreError(f"{self.place}: {brief(e)}") from e


def _account(text: bytes) -> Account:
    return Account(**json.loads(text))


def _watched(kept: bytes) -> Watched:
    facts, _, sketch = kept.partition(b"\n")
    return Watched(**json.loads(facts) | {"sketch": sketch})


def _parts(values: Sequence[bytes]) -> Iterator[Sequence[bytes]]:
    for start in range(0, len(values), _PART):
        yield values[start : start + _PART]
