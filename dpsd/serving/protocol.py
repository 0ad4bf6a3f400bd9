"""Bounds on a connection that uvicorn has not: how long and how large a request's head may be."""

import asyncio
from typing import Any

_HEAD_BYTES = 2**16
_LOOKS = 12  # after which one request is broken off, whatever it does


def http_protocol(look: float = 10.0) -> type[Any]:
    """Uvicorn's protocol with bounds against slow clients.

    A connection is closed where no whole head of a request comes within ten seconds (or twenty,
    after an earlier request), where a head is longer than 64 KiB, and where one request takes two
    minutes, its body and the reading of its answer included.

    Args:
        look: seconds between two looks at a connection.
    """
    base = _protocol()

    class Bounded(base):  # type: ignore[misc, valid-type]
        """One connection."""

        def connection_made(self, transport: Any) -> None:
            """Begin to look at it."""
            super().connection_made(transport)
            self._head_bytes, self._looks = 0, 0
            self._before: object = None
            self._timer: asyncio.TimerHandle = self.loop.call_later(look, self._look)

        def connection_lost(self, exc: Exception | None) -> None:
            """Stop looking at it."""
            self._timer.cancel()
            super().connection_lost(exc)

        def data_received(self, data: bytes) -> None:
            """Take in bytes; those of a head are counted."""
            super().data_received(data)
            self._head_bytes = self._head_bytes + len(data) if self._waits() else 0
            if self._head_bytes > _HEAD_BYTES:
                self.transport.abort()

        def _waits(self) -> bool:
            """Whether the next request has not begun."""
            return self.cycle is None or bool(self.cycle.response_complete)

        def _look(self) -> None:
            same = self.cycle is self._before
            self._looks = self._looks + 1 if same else 0
            if same and (self._waits() or self._looks >= _LOOKS):
                self.transport.abort()
                return
            self._before = self.cycle
            self._timer = self.loop.call_later(look, self._look)

    return Bounded


def _protocol() -> type[Any]:
    """The one that uvicorn would choose."""
    try:
        from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

        return HttpToolsProtocol
    except ImportError:
        from uvicorn.protocols.http.h11_impl import H11Protocol

        return H11Protocol
