"""Moving windows of this process, for the library `limits`.

The library's own memory keeps an entry for each unit of cost and a thread that cleans up; here it
is one entry for each charge, and charging takes constant time whatever a minute brought.
"""

import time
from collections import deque
from dataclasses import dataclass, field
from threading import Lock

from limits.storage import MovingWindowSupport, Storage

_SWEEP = 1_000  # keys before those that are empty are looked for


@dataclass
class _Window:
    """Charges that are not over yet, oldest first, and their sum."""

    charges: deque[tuple[float, int]] = field(default_factory=deque)
    total: int = 0

    def since(self, start: float) -> "_Window":
        """The window without what was charged before `start`."""
        while self.charges and self.charges[0][0] < start:
            self.total -= self.charges.popleft()[1]
        return self


class Windows(Storage, MovingWindowSupport):
    """Storage of `limits` for `MovingWindowRateLimiter` alone."""

    STORAGE_SCHEME = None

    def __init__(self) -> None:
        super().__init__()
        self._windows: dict[str, _Window] = {}
        self._lock, self._sweep = Lock(), _SWEEP

    def acquire_entry(self, key: str, limit: int, expiry: int, amount: int = 1) -> bool:
        """Charge `amount` where at most `limit` are then charged within `expiry` seconds."""
        now = time.time()
        with self._lock:
            if len(self._windows) >= self._sweep:
                self._forget_empty(now - expiry)
            window = self._windows.setdefault(key, _Window()).since(now - expiry)
            if window.total + amount > limit:
                return False
            window.charges.append((now, amount))
            window.total += amount
            return True

    def get_moving_window(self, key: str, limit: int, expiry: int) -> tuple[float, int]:
        """When the oldest charge was made, and what is charged within `expiry` seconds."""
        now = time.time()
        with self._lock:
            window = self._windows.get(key)
            if window is None or not window.since(now - expiry).charges:
                return now, 0
            return window.charges[0][0], window.total

    def _forget_empty(self, start: float) -> None:
        self._windows = {k: w for k, w in self._windows.items() if w.since(start).charges}
        self._sweep = max(_SWEEP, 2 * len(self._windows))

    @property
    def base_exceptions(self) -> type[Exception]:
        """Nothing here fails."""
        return ValueError

    def check(self) -> bool:
        """Whether it works."""
        return True

    def clear(self, key: str) -> None:
        """Forget the charges of a key."""
        self._windows.pop(key, None)

    def reset(self) -> int:
        """Forget all charges; how many keys there were."""
        with self._lock:
            count = len(self._windows)
            self._windows.clear()
        return count

    def incr(self, key: str, expiry: int, amount: int = 1) -> int:
        """Fixed windows are not kept."""
        raise NotImplementedError

    def get(self, key: str) -> int:
        """Fixed windows are not kept."""
        raise NotImplementedError

    def get_expiry(self, key: str) -> float:
        """Fixed windows are not kept."""
        raise NotImplementedError
