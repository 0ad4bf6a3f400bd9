"""How many images an account, a network and the whole service may ask; cost is images, not calls.

Rates are moving windows of the library `limits`, in this process or in Redis, where several workers
count together; what a day may cost lies in the store, so that no restart forgives it. Whatever
cannot be counted is refused.
"""

import time
from dataclasses import dataclass
from typing import NamedTuple

from limits.storage import RedisStorage

from dpsd.guard.proof_of_work.work import Puzzle
from dpsd.guard.storage.store import Account, Store
from dpsd.guard.windows import Windows

_BACK = 2.0  # seconds that the clock may be set back without notice
_MINUTE = 60
_GUESSES = 10  # wrong keys of a network in a minute


@dataclass(frozen=True)
class Tier:
    """What an account of a tier may do.

    Attributes:
        per_minute: images.
        per_day: images (UTC days); None: any number.
        defences: texts of `dpsd.defences.parse_defence`; what its answers go through.
        needs: what the operator verifies before it gives the tier, in words.
    """

    per_minute: int
    per_day: int | None = None
    defences: tuple[str, ...] = ()
    needs: str = ""


@dataclass(frozen=True)
class Refusal:
    """Why images are not answered now.

    Attributes:
        code: for programs.
        message: for people.
        retry_after: seconds until it is worth asking again; None: not by waiting.
        status: of HTTP; 0: 429 where waiting helps, else 413.
        puzzle: that has to be solved first; None: none.
    """

    code: str
    message: str
    retry_after: int | None
    status: int = 0
    puzzle: Puzzle | None = None


class _Window(NamedTuple):
    """A minute of somebody: what it is called in messages, whose it is, how many it may hold."""

    what: str
    name: str
    most: int

    @property
    def key(self) -> str:
        return f"{self.what}/{self.name}"


class Limits:
    """The limits of one service.

    Args:
        tiers: by name.
        per_network: images a minute of one network prefix, all accounts together.
        in_all: images a minute of the service.
        store: keeps the days' charges.
        shared: Redis address where several workers count together; None: this process counts alone.
    """

    def __init__(
        self,
        tiers: dict[str, Tier],
        per_network: int,
        in_all: int,
        store: Store,
        shared: str | None = None,
    ) -> None:
        self.tiers, self.store = tiers, store
        self._per_network, self._in_all = per_network, in_all
        self._counts: Windows | RedisStorage = (
            Windows() if shared is None
            else RedisStorage(shared, key_prefix="dpsd:rates", wrap_exceptions=True)
        )  # fmt: skip
        self._clock = _clock()

    def charge(
        self, account: Account, network: str, images: int, share: float = 1.0
    ) -> Refusal | None:
        """Charge images, or say why they cannot be asked now. All or nothing is charged.

        Args:
            account: who asks.
            network: the prefix that the request came from.
            images: in the request, at least 1.
            share: of the account's images a minute and a day that is left to it.
        """
        self._follow_clock()
        tier = self.tiers.get(account.tier)
        if tier is None:
            return Refusal("unknown_tier", f"the tier {account.tier} is not configured", None)
        per_day = None if tier.per_day is None else _left(tier.per_day, share)
        windows = (
            _Window("account", account.id, _left(tier.per_minute, share)),
            _Window("network", network, self._per_network),
            _Window("service", "all", self._in_all),
        )
        for window in windows:
            if images > window.most:
                text = f"{images:,} images in one request; at most {window.most:,} a minute"
                return Refusal("too_many_images", text, None)
            if not self._has_room(window, images):
                return self._spent(window)
        now = time.time()
        if self.store.charge(account.id, images, now, per_day) is None:
            wait = int(86_400 - now % 86_400) + 1
            return Refusal("daily_limit", f"{per_day:,} images a day are spent", wait)
        for window in windows:
            if not self._counts.acquire_entry(window.key, window.most, _MINUTE, images):
                # another worker was quicker
                self.store.charge(account.id, -images, now, None)
                return self._spent(window)
        return None

    def guessed(self, network: str) -> Refusal | None:
        """Count a wrong key of a network; too many are refused before they are looked at."""
        window = _Window("guess", network, _GUESSES)
        if self._counts.acquire_entry(window.key, window.most, _MINUTE):
            return None
        text = "too many wrong keys from this network"
        return Refusal("too_many_keys", text, self._wait(window))

    def may_guess(self, network: str) -> bool:
        """Whether a key of this network is looked at now."""
        self._follow_clock()
        return self._has_room(_Window("guess", network, _GUESSES), 1)

    def _has_room(self, window: _Window, cost: int) -> bool:
        _, counted = self._counts.get_moving_window(window.key, window.most, _MINUTE)
        return counted + cost <= window.most

    def _spent(self, window: _Window) -> Refusal:
        text = f"the {window.what}'s {window.most:,} images a minute are spent"
        return Refusal("rate_limited", text, self._wait(window))

    def _wait(self, window: _Window) -> int:
        oldest, _ = self._counts.get_moving_window(window.key, window.most, _MINUTE)
        return max(1, int(oldest + _MINUTE - time.time()) + 1)

    def _follow_clock(self) -> None:
        """Begin the minutes anew where the clock was set back: else they would last as long."""
        now = _clock()
        if now < self._clock - _BACK:
            self._counts.reset()
        self._clock = now


def _left(most: int, share: float) -> int:
    return max(1, int(share * most))


def _clock() -> float:
    """The time of day, as far as it moved by itself."""
    return time.time() - time.monotonic()
