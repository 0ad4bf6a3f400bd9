"""What the guard remembers: accounts, what they were charged, what was seen and done.

Two stores keep it: SQLite (`sqlite_store`), and Redis (`redis_store`) where several processes or
machines serve. A charge is in the store before an answer leaves, so that a killed service loses
none.
"""

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol


class StoreError(Exception):
    """The store cannot be reached or written now; nothing may be answered without it."""


SILENT = ("window", "clusters")
"""Kinds of events that the guard writes all the time."""


@dataclass(frozen=True)
class Account:
    """Somebody who may ask.

    Attributes:
        id: random, public; a part of its keys.
        name: the operator's.
        tier: a name of the configuration.
        state: active | blocked.
        key_hash: HMAC-SHA-256 of the secret part of its key, under the pepper.
        made, expires: seconds since 1970; None: never.
        reference: payment or contract, given by the operator; may be empty.
    """

    id: str
    name: str
    tier: str
    state: str
    key_hash: str
    made: float
    expires: float | None = None
    reference: str = ""


@dataclass(frozen=True)
class Watched:
    """What the detectors hold of an account.

    Attributes:
        account: its id.
        sketch: `dpsd.guard.detection.sketch.Sketch`, as bytes of bounded length; no image.
        windows, begun: the evidence so far, see `dpsd.guard.detection.evidence.Evidence`.
        suspicion: log of the evidence over log of the alarm level: 0 without evidence, 1 at the
            alarm.
        prior: suspicion that it inherits from a cluster; the larger of the two counts.
        level: of the policy; empty: none.
        since: when the level was reached, seconds since 1970.
        held: 1 where the operator set the level by hand, which evidence does not change.
        reason: of the level, in one sentence.
        updated: seconds since 1970.
    """

    account: str
    sketch: bytes
    windows: int = 0
    begun: float = 0.0
    suspicion: float = 0.0
    prior: float = 0.0
    level: str = ""
    since: float = 0.0
    held: int = 0
    reason: str = ""
    updated: float = 0.0


@dataclass(frozen=True)
class Seen:
    """An indicator with which an account asked.

    Attributes:
        account: its id.
        kind: network | agent | reference | tls, or another header of a configured proxy.
        indicator: a keyed hash; equal for equal values under one pepper.
        first, last: seconds since 1970.
        images: asked with it.
    """

    account: str
    kind: str
    indicator: str
    first: float
    last: float
    images: int


class Store(Protocol):
    """The guard's memory; several processes may have it open."""

    def close(self) -> None:
        """Write what is left, and let go."""

    def usable(self) -> bool:
        """Whether charges can be written now."""

    def add(self, account: Account) -> None:
        """Keep a new account; `UserError` where one of its name is there."""

    def change(self, account: Account) -> None:
        """Keep an account in place of that of the same id."""

    def accounts(self) -> list[Account]:
        """All, oldest first."""

    def by_id(self, id: str) -> Account | None:
        """The account, if there is one."""

    def by_name(self, name: str) -> Account:
        """The account of this name; `UserError` where there is none."""

    def forget(self, account: str) -> None:
        """Delete all that is kept about an account."""

    def forget_traces(self, account: str) -> None:
        """Delete what was seen of an account; the account and its charges stay."""

    def charge(self, account: str, images: int, at: float, most: int | None) -> int | None:
        """Charge images to an account's day (UTC), if that stays within `most`.

        Returns:
            Images of the day with these; None: too many, and nothing was charged.
        """

    def spent(self, account: str) -> int:
        """Images that were charged to an account, of all days."""

    def note(self, account: str, kind: str, at: float, **facts: Any) -> None:
        """Write down what was done to an account, and why."""

    def events(self, account: str) -> list[dict[str, Any]]:
        """What was done to an account, oldest first: `at`, `kind` and the facts."""

    def recent_events(self, most: int) -> list[dict[str, Any]]:
        """What was done to all accounts, newest first: `account`, `at`, `kind` and the facts."""

    def recent_actions(self, most: int) -> list[dict[str, Any]]:
        """As `recent_events`, without the kinds of `SILENT`, however many of these came since."""

    def watched(self, account: str) -> Watched | None:
        """What the detectors hold of an account, if it asked anything."""

    def all_watched(self, at_least: float = ...) -> list[Watched]:
        """Accounts of at least this suspicion, the most suspicious first; all by default."""

    def watch(self, watched: Watched) -> None:
        """Keep what the detectors hold of an account, in place of what was there."""

    def together(self) -> AbstractContextManager[object]:
        """What is written within is written at once, as far as the store can."""

    def saw(self, account: str, kind: str, indicator: str, at: float, images: int) -> None:
        """Keep that an account asked with an indicator, such as a network."""

    def seen(self, account: str | None = None) -> list[Seen]:
        """Indicators of one account or of all, first seen first."""
