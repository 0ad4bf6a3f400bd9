"""What the guard needs of ASGI: bodies, headers, copies of answers, refusals."""

import json
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from dpsd.guard.limits import Refusal

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

_ANSWER = 2**20  # bytes of an answer that are kept, at most


class Copy:
    """Sends an application's answer on, and keeps its beginning."""

    def __init__(self, send: Send) -> None:
        """Before an application's `send`."""
        self._send, self.status, self.body = send, 500, bytearray()

    async def __call__(self, message: MutableMapping[str, Any]) -> None:
        """One message of the application."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
        elif message["type"] == "http.response.body":
            self.body += message.get("body", b"")[: _ANSWER - len(self.body)]
        await self._send(message)


async def read_body(receive: Receive, most: int) -> bytes | None:
    """The body; None: it is too long, or the client went."""
    parts, size = [], 0
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return None
        part = message.get("body", b"")
        size += len(part)
        if size > most:
            return None
        parts.append(part)
        if not message.get("more_body", False):
            return b"".join(parts)


def replay(body: bytes, receive: Receive) -> Receive:
    """The same body once more, and then what the client does."""
    left = [body]

    async def again() -> MutableMapping[str, Any]:
        if left:
            return {"type": "http.request", "body": left.pop(), "more_body": False}
        return await receive()

    return again


def header(scope: Scope, name: str) -> str:
    """All values of a header, joined by commas; empty without one."""
    found = [value for key, value in scope["headers"] if key.lower() == name.encode()]
    return ",".join(value.decode("latin-1") for value in found)


async def refuse(send: Send, status: int, refusal: Refusal) -> None:
    """Answer with a refusal as JSON, as `dpsd serve` does."""
    tree: dict[str, Any] = {"error": {"code": refusal.code, "message": refusal.message}}
    headers = [(b"content-type", b"application/json"), (b"cache-control", b"no-store")]
    if refusal.puzzle is not None:
        tree |= {"challenge": refusal.puzzle.challenge, "bits": refusal.puzzle.bits}
    if refusal.retry_after is not None:
        headers.append((b"retry-after", str(refusal.retry_after).encode()))
    text = json.dumps(tree).encode()
    headers.append((b"content-length", str(len(text)).encode()))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": text})
