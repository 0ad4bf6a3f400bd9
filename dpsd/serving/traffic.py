"""Requests and images by minute, in memory: what the dashboard shows of the traffic now."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from threading import Lock

_MINUTE = 60


@dataclass(frozen=True)
class Minute:
    """What one minute brought.

    Attributes:
        at: its beginning, seconds since 1970.
        requests: all.
        refused: of these, with a status of 400 or above.
        images: answered.
    """

    at: int
    requests: int = 0
    refused: int = 0
    images: int = 0


class Traffic:
    """A counter of the last hour; it forgets what is older, and all when the process ends.

    Args:
        keep: minutes.
        clock: seconds since 1970.
    """

    def __init__(self, keep: int = 60, clock: Callable[[], float] = time.time) -> None:
        self._keep, self._clock, self._lock = keep, clock, Lock()
        self._minutes: dict[int, tuple[int, int, int]] = {}

    def request(self, status: int) -> None:
        """Count a request by the status of its answer."""
        self._add(1, int(status >= 400), 0)

    def answered(self, images: int) -> None:
        """Count images that were answered."""
        self._add(0, 0, images)

    def minutes(self) -> list[Minute]:
        """The last minutes, oldest first, the current one last; quiet ones are zero."""
        now = int(self._clock()) // _MINUTE
        with self._lock:
            return [Minute(m * _MINUTE, *self._minutes.get(m, (0, 0, 0)))
                    for m in range(now - self._keep + 1, now + 1)]  # fmt: skip

    def _add(self, *counts: int) -> None:
        now = int(self._clock()) // _MINUTE
        with self._lock:
            a, b, c = self._minutes.get(now, (0, 0, 0))
            self._minutes[now] = (a + counts[0], b + counts[1], c + counts[2])
            if len(self._minutes) > self._keep:
                kept = range(now - self._keep + 1, now + 1)
                self._minutes = {m: v for m, v in self._minutes.items() if m in kept}
