"""Around every request: an id, a limit on how many are answered at once, and counting."""

import secrets
from collections.abc import Callable

from fastapi.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

BUSY = ("busy", "too many requests at once")


class Frame:
    """ASGI middleware; plain, since Starlette's costs more than an answer of a small model.

    Args:
        app: the API.
        short: a path, and the application that answers POST there. It is reached without the API's
            layers of routes and handlers.
        at_once: requests that are answered at once; others are told to come again.
        count: is called with path of the route and status, after each response has begun.
    """

    def __init__(
        self,
        app: ASGIApp,
        short: tuple[str, ASGIApp],
        at_once: int,
        count: Callable[[str, int], None],
    ) -> None:
        self._app, self._short, self._at_once, self._count = app, short, at_once, count
        self._running = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As ASGI says."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        app, path = self._app, ""
        if scope["method"] == "POST" and scope["path"] == self._short[0]:
            path, app = self._short
        name = secrets.token_hex(8)
        scope.setdefault("state", {})["id"] = name

        async def framed(message: Message) -> None:
            if message["type"] == "http.response.start":
                added = [(b"x-request-id", name.encode()), (b"cache-control", b"no-store")]
                message["headers"] = [*message.get("headers", ()), *added]
                route = path or str(getattr(scope.get("route"), "path", "other"))
                self._count(route, int(message["status"]))
            await send(message)

        if self._running >= self._at_once:
            error = {"code": BUSY[0], "message": BUSY[1], "request_id": name}
            busy = JSONResponse({"error": error}, 503, {"Retry-After": "1"})
            await busy(scope, receive, framed)
            return
        self._running += 1
        try:
            await app(scope, receive, framed)
        finally:
            self._running -= 1
