"""The guard before any ASGI application: FastAPI, Starlette, or another.

    app.add_middleware(GuardMiddleware, guard=open_guard(Path("guard"), tiers),
                       account="shop.guarding:account", embedder="shop.guarding:embed")

Limits fail closed: a request that cannot be counted is not answered. Detection fails open: a
request that the embedder cannot read is counted as one question, is answered, and raises
`GuardMiddleware.failed`.
"""

import asyncio
import contextlib
import secrets
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dpsd.errors import UserError
from dpsd.guard.apps.asgi import App, Copy, Receive, Scope, Send, header, read_body, refuse, replay
from dpsd.guard.detection.watch import Observation
from dpsd.guard.guard import Guard
from dpsd.guard.limits import Refusal
from dpsd.guard.network import network_prefix
from dpsd.guard.proof_of_work.work import HEADER
from dpsd.guard.storage.store import Account
from dpsd.imports import import_object

_NOTE_AGAIN = 3_600  # seconds until an account's flag is noted again
_NOTED = 10_000
_UNKNOWN = Refusal("bad_key", "it is not known who asks", None, 401)


@dataclass(frozen=True)
class Asked:
    """The questions of one request.

    Attributes:
        features: float32 [B, F], one row a question.
        hashes: uint64 [B], near-duplicates differ in few bits; None: from the features.
        flags: kind -> sentence; what is remarkable about it, for the account's log.
        wanted: whether it asks for probabilities or logprobs.
    """

    features: NDArray[np.float32]
    hashes: NDArray[np.uint64] | None = None
    flags: Iterable[tuple[str, str]] = ()
    wanted: bool = False


class GuardMiddleware:
    """ASGI middleware: who asks, how much, what is asked; answers go through as they are.

    The application finds what holds for the account in `scope["dpsd.standing"]`, for instance to
    show less.

    Attributes:
        failed: requests that the embedder or the reader of answers could not read; the last error
            is `error`.
    """

    def __init__(
        self,
        app: App,
        guard: Guard,
        account: str | Callable[[Scope], str | None],
        embedder: str | Callable[[bytes, Scope], Asked],
        *,
        answers: str | Callable[[bytes], NDArray[np.float32]] | None = None,
        tier: str = "trial",
        paths: Sequence[str] = ("/",),
        free: Sequence[str] = ("/healthz", "/readyz"),
        body_bytes: int = 2**20,
        body_seconds: float = 30.0,
        proxies: Sequence[str] = (),
    ) -> None:
        """Put a guard before an application.

        Args:
            app: the application.
            guard: with its store, limits and policy.
            account: import path `module:function`, or the function. From an ASGI scope to the name
                of who asks, which it has authenticated; None: nobody, which is refused.
            embedder: import path, or the function. From a body and its scope to the questions.
            answers: import path, or the function. From the application's body to its
                probabilities, float32 [B, K]; None: they are not looked at.
            tier: of accounts that the guard has not seen before.
            paths: guarded, with all below; `/` is everything.
            free: paths that are not guarded.
            body_bytes: of a request, at most.
            body_seconds: until a body is there, at most.
            proxies: addresses whose `X-Forwarded-For` is believed.

        Raises:
            UserError: an import path that leads nowhere, or a tier without limits.
        """
        if tier not in guard.limits.tiers:
            known = ", ".join(guard.limits.tiers)
            raise UserError(f"tier: {tier!r}; accepted: {known}")
        self.app, self.guard, self.tier = app, guard, tier
        self._account: Callable[[Scope], str | None] = _found(account)
        self._embedder: Callable[[bytes, Scope], Asked] = _found(embedder)
        self._answers: Callable[[bytes], NDArray[np.float32]] | None = _found(answers)
        self._paths, self._free = tuple(p.rstrip("/") for p in paths), frozenset(free)
        self._bytes, self._seconds, self._proxies = body_bytes, body_seconds, proxies
        self._noted: dict[tuple[str, str], float] = {}
        self.failed, self.error = 0, ""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or refuse, one request."""
        if scope["type"] == "lifespan" or not self._guarded(scope["path"]):
            await self.app(scope, receive, send)
        elif scope["type"] == "http":
            await self._http(scope, receive, send)
        else:  # a websocket's questions would not be counted
            await receive()
            await send({"type": "websocket.close", "code": 1008})

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        network, said = self._network(scope), Copy(send)
        try:
            account = self._known(scope)
            at_once = _UNKNOWN if account is None else _refused_at_once(account)
            if account is None or at_once is not None:  # their body is not read
                await _answer(send, at_once or _UNKNOWN)
                return
            body = await self._body(receive, send)
            if body is None:
                return
            asked = await asyncio.to_thread(self._read, body, scope)
            questions = 1 if asked is None else max(1, len(asked.features))
            solution = header(scope, HEADER.lower())
            standing = self.guard.standing(account)
            refusal = self.guard.gate(account, network, questions, solution, standing)
            if refusal is not None:
                await _answer(send, refusal)
                return
            scope["dpsd.standing"] = standing
        except Exception as e:  # what cannot be counted is not answered
            self.error = f"{type(e).__name__}: {e}"
            text = "requests cannot be counted now, so nothing is answered"
            await refuse(send, 503, Refusal("store_unavailable", text, 5))
            return
        await self.app(scope, replay(body, receive), said)
        if said.status < 400 and asked is not None and len(asked.features):
            self._observe(account, network, asked, bytes(said.body), scope)

    async def _body(self, receive: Receive, send: Send) -> bytes | None:
        """The body; None: it is refused."""
        try:
            async with asyncio.timeout(self._seconds):
                body = await read_body(receive, self._bytes)
        except TimeoutError:
            await refuse(send, 408, Refusal("too_slow", "the body took too long", None))
            return None
        if body is None:
            text = f"the body is longer than {self._bytes:,} bytes, or was broken off"
            await refuse(send, 413, Refusal("too_large", text, None))
        return body

    def _known(self, scope: Scope) -> Account | None:
        """The account of a request; a name that is new gets one."""
        name = self._account(scope)
        if not name:
            return None
        try:
            return self.guard.store.by_name(name)
        except UserError:
            account = Account(secrets.token_hex(8), name, self.tier, "active", "", time.time())
            with contextlib.suppress(UserError):  # another process was faster
                self.guard.store.add(account)
            return self.guard.store.by_name(name)

    def _read(self, body: bytes, scope: Scope) -> Asked | None:
        """The questions of a request; None: the embedder failed, and detection fails open."""
        try:
            return self._embedder(body, scope)
        except Exception as e:
            self._fail(e)
            return None

    def _observe(
        self, account: Account, network: str, asked: Asked, said: bytes, scope: Scope
    ) -> None:
        now = time.time()
        try:
            answers = np.ones((len(asked.features), 1), np.float32)
            if self._answers is not None:
                answers = self._answers(said)
            for kind, sentence in asked.flags:
                self._note(account.id, kind, sentence, now)
            agent = header(scope, "user-agent")[:300]
            self.guard.observe(Observation(
                account.id, now, asked.features, answers, asked.hashes, asked.wanted,
                self.guard.indicators(account, network=network, agent=agent),
            ))  # fmt: skip
        except Exception as e:
            self._fail(e)

    def _note(self, account: str, kind: str, sentence: str, now: float) -> None:
        """Log a flag, at most once an hour for an account and a kind."""
        if self._noted.get((account, kind), 0.0) + _NOTE_AGAIN > now:
            return
        while len(self._noted) >= _NOTED:
            self._noted.pop(next(iter(self._noted)))
        self._noted[account, kind] = now
        self.guard.store.note(account, "flag", now, flag=kind, reason=sentence)

    def state(self) -> dict[str, object]:
        """For a page of yours on readiness: store, limits, detection, what failed."""
        return self.guard.state() | {"embedder_failed": self.failed, "last_error": self.error}

    def _fail(self, error: Exception) -> None:
        self.failed += 1
        self.error = f"{type(error).__name__}: {error}"

    def _guarded(self, path: str) -> bool:
        under = any(path == p or path.startswith(f"{p}/") for p in self._paths)
        return under and path not in self._free

    def _network(self, scope: Scope) -> str:
        address = (scope.get("client") or ("", 0))[0]
        return network_prefix(address, header(scope, "x-forwarded-for"), self._proxies)


def _found(function: Any) -> Any:
    """The function itself, or that of an import path."""
    return import_object(function) if isinstance(function, str) else function


def _refused_at_once(account: Account) -> Refusal | None:
    """Why an account is not answered, whatever it asks."""
    if account.state != "active":
        return Refusal("blocked", "this account is blocked; ask the operator", None, 403)
    if account.expires is not None and account.expires < time.time():
        return Refusal("expired", "this account has expired; ask the operator", None, 403)
    return None


async def _answer(send: Send, refusal: Refusal) -> None:
    """Send a refusal with its status."""
    waits = 413 if refusal.retry_after is None else 429
    await refuse(send, refusal.status or waits, refusal)
