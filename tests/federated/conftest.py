"""Deadlines that a busy machine cannot break: their clock stands while a client works."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace

import pytest

from dpsd.federated import grid, rounds


class IdleClock:
    """Counts only the seconds in which every client of the grid has answered or is `away`."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._working, self._spent, self._since = 0, 0.0, time.monotonic()

    def monotonic(self) -> float:
        with self._lock:
            return self._spent + (0 if self._working else time.monotonic() - self._since)

    def change(self, clients: int) -> None:
        with self._lock:
            if self._working == 0:
                self._spent += time.monotonic() - self._since
            self._working += clients
            self._since = time.monotonic()

    @contextmanager
    def away(self) -> Iterator[None]:
        """What a client does in here costs its deadline."""
        self.change(-1)
        try:
            yield
        finally:
            self.change(1)


@pytest.fixture(autouse=True)
def clock(monkeypatch):
    """The clock of `collect` and of the grid in one process."""
    clock = IdleClock()
    push, handle = grid.InProcessGrid.push_messages, grid.InProcessGrid._handle

    def counted_push(self, messages):
        messages = list(messages)
        clock.change(len(messages))
        return push(self, messages)

    def counted_handle(self, message):
        handle(self, message)
        clock.change(-1)

    monkeypatch.setattr(grid.InProcessGrid, "push_messages", counted_push)
    monkeypatch.setattr(grid.InProcessGrid, "_handle", counted_handle)
    for module in (grid, rounds):
        fake = SimpleNamespace(monotonic=clock.monotonic, sleep=time.sleep)
        monkeypatch.setattr(module, "time", fake)
    return clock
