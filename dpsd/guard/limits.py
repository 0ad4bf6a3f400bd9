"""How many images an account, a network and the whole service may ask; cost is images, not calls.

Rates are moving windows of the library `limits`, in this process or in Redis, where several workers
count together; what a day may cost lies in the store, so that no restart forgives it. Whatever
cannot be counted is refused.
"""

import time
from dataclasses import dataclass

from limits import RateLimitItemPerMinute
from limits.storage import MemoryStorage, RedisStorage
from limits.strategies import MovingWindowRateLimiter

from dpsd.guard.store import Account, Store
from dpsd.guard.work import Puzzle

_BACK = 2.0  # seconds that the clock may be set back without notice


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
        self._network = RateLimitItemPerMinute(per_network)
        self._all = RateLimitItemPerMinute(in_all)
        self._accounts = {name: RateLimitItemPerMinute(t.per_minute) for name, t in tiers.items()}
        self._guesses = RateLimitItemPerMinute(10)
        self._storage = (
            MemoryStorage() if shared is None
            else RedisStorage(shared, key_prefix="dpsd:rates", wrap_exceptions=True)
        )  # fmt: skip
        self._rates = MovingWindowRateLimiter(self._storage)
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
        item = self._accounts[account.tier]
        if share < 1:
            item = RateLimitItemPerMinute(max(1, int(share * item.amount)))
        per_day = tier.per_day if tier.per_day is None else max(1, int(share * tier.per_day))
        windows = [
            (item, ("account", account.id), "account"),
            (self._network, ("network", network), "network"),
            (self._all, ("all", "all"), "service"),
        ]
        for item, names, what in windows:
            if images > item.amount:
                text = f"{images:,} images in one request; at most {item.amount:,} a minute"
                return Refusal("too_many_images", text, None)
            if not self._rates.test(item, *names, cost=images):
                wait = self._wait(item, names)
                text = f"the {what}'s {item.amount:,} images a minute are spent"
                return Refusal("rate_limited", text, wait)
        now = time.time()
        if self.store.charge(account.id, images, now, per_day) is None:
            wait = int(86_400 - now % 86_400) + 1
            return Refusal("daily_limit", f"{per_day:,} images a day are spent", wait)
        for item, names, what in windows:
            if not self._rates.hit(item, *names, cost=images):  # another worker was quicker
                self.store.charge(account.id, -images, now, None)
                text = f"the {what}'s {item.amount:,} images a minute are spent"
                return Refusal("rate_limited", text, self._wait(item, names))
        return None

    def guessed(self, network: str) -> Refusal | None:
        """Count a wrong key of a network; too many are refused before they are looked at."""
        if self._rates.hit(self._guesses, "guess", network):
            return None
        wait = self._wait(self._guesses, ("guess", network))
        return Refusal("too_many_keys", "too many wrong keys from this network", wait)

    def may_guess(self, network: str) -> bool:
        """Whether a key of this network is looked at now."""
        self._follow_clock()
        return self._rates.test(self._guesses, "guess", network)

    def _follow_clock(self) -> None:
        """Begin the minutes anew where the clock was set back: else they would last as long."""
        now = _clock()
        if now < self._clock - _BACK:
            self._storage.reset()
        self._clock = now

    def _wait(self, item: RateLimitItemPerMinute, names: tuple[str, str]) -> int:
        reset = self._rates.get_window_stats(item, *names).reset_time
        return max(1, int(reset - time.time()) + 1)


def _clock() -> float:
    """The time of day, as far as it moved by itself."""
    return time.time() - time.monotonic()
