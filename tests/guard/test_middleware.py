"""The middleware: limits fail closed, detection open, and an application sees what was sent."""

import asyncio
import json
import sqlite3

import numpy as np
import pytest
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse, StreamingResponse
from starlette.routing import Route, WebSocketRoute
from starlette.testclient import TestClient, WebSocketDisconnect

from dpsd.errors import UserError
from dpsd.guard import Asked, GuardMiddleware, Level, Policy, Tier, open_guard
from dpsd.guard.actions import hold
from dpsd.guard.proof_of_work.work import Puzzle, solve
from dpsd.guard.storage.store import Account

TIERS = {"trial": Tier(per_minute=10, per_day=20)}


def who(scope):
    return dict(scope["headers"]).get(b"x-who", b"").decode() or None


def words(body, scope):
    """One question a word."""
    found = body.decode().split()
    return Asked(np.ones((len(found), 3), np.float32), flags=[("w", x) for x in found if x == "!"])


async def echo(request):
    body = await request.body()

    async def parts():
        for k in range(0, len(body), 4):
            yield body[k : k + 4]

    return StreamingResponse(
        parts(), headers={"X-Level": str(request.scope["dpsd.standing"].level)}
    )


async def health(request):
    return PlainTextResponse("ok")


async def socket(websocket):
    await websocket.accept()
    await websocket.close()


class Seen:
    """A guard that remembers what it observes."""

    def __init__(self, guard):
        self.list = []
        guard.observe = self.list.append


@pytest.fixture
def make(tmp_path):
    opened = []

    def _make(policy=None, **more):
        guard = open_guard(tmp_path / "g", TIERS, policy=policy, hashes=64)
        opened.append(guard)
        routes = [Route("/ask", echo, methods=["GET", "POST"]), Route("/healthz", health),
                  WebSocketRoute("/ws", socket)]  # fmt: skip
        options = {"account": who, "embedder": words} | more
        app = GuardMiddleware(Starlette(routes=routes), guard, **options)
        return app, TestClient(app, raise_server_exceptions=False), guard

    yield _make
    for guard in opened:
        guard.store.close()


def ask(client, body="one two", name="alice", **headers):
    return client.post("/ask", content=body, headers={"X-Who": name} | headers)


def code(response):
    return response.status_code, response.json()["error"]["code"]


def test_questions_are_counted_answered_and_observed(make):
    _, client, guard = make(answers=lambda body: np.array([[0.5, 0.5]] * 2, np.float32))
    seen = Seen(guard)
    assert ask(client, "one two").text == "one two"
    account = guard.store.by_name("alice")
    (observation,) = seen.list
    assert observation.features.shape == (2, 3) and observation.answers.shape == (2, 2)
    assert observation.account == account.id
    assert observation.indicators["network"] == guard.hashed("network", "unknown")
    assert guard.store.spent(account.id) == 2 and account.tier == "trial"
    assert code(ask(client, "x " * 9)) == (429, "rate_limited")
    assert code(ask(client, "x " * 11)) == (413, "too_many_images")
    assert guard.store.spent(account.id) == 2 and len(seen.list) == 1
    assert code(ask(client, name="")) == (401, "bad_key")
    assert client.get("/healthz").text == "ok"


def test_a_body_that_the_embedder_cannot_read_is_one_question(make):
    app, client, guard = make()
    seen = Seen(guard)
    for body in (b"\xff\xfe", b""):
        assert ask(client, body).status_code == 200  # the application says what it says
    assert guard.store.spent(guard.store.by_name("alice").id) == 2
    assert app.failed == 1 and "UnicodeDecodeError" in app.error and not seen.list
    guard.observe = None  # and what cannot be looked at is answered
    assert ask(client, "one").text == "one" and app.failed == 2


def test_nothing_is_answered_while_nothing_can_be_counted(make, monkeypatch):
    _, client, guard = make()

    def broken(*_):
        raise sqlite3.OperationalError("disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(guard.store, "charge", broken)
        refused = ask(client)
        assert code(refused) == (503, "store_unavailable") and refused.headers["retry-after"] == "5"
    assert ask(client).status_code == 200


def test_who_is_not_known_or_blocked_costs_nothing(make):
    """Neither the embedder nor the application sees what they send."""
    app, client, guard = make(embedder=lambda *_: pytest.fail("read"))
    assert code(ask(client, "x" * 10**6, name="")) == (401, "bad_key")
    guard.store.add(Account("id", "eve", "trial", "blocked", "", 0.0))
    guard.store.add(Account("od", "old", "trial", "active", "", 0.0, expires=1.0))
    assert code(ask(client, name="eve")) == (403, "blocked")
    assert code(ask(client, name="old")) == (403, "expired")
    assert app.state()["store"] == "ok" and app.state()["embedder_failed"] == 0


def test_a_blocked_account_and_levels(make):
    policy = Policy((Level("challenge", 0.5, work=True), Level("block", 1, block=True)),
                    dry_run=False)  # fmt: skip
    _, client, guard = make(policy)
    guard._background = Seen(guard)  # levels count where there is detection
    assert ask(client).headers["x-level"] == "None"
    alice = guard.store.by_name("alice").id
    hold(guard.store, policy, alice, "challenge", "me", "test")
    asked = ask(client)
    assert code(asked) == (428, "work_needed")
    solution = solve(Puzzle(asked.json()["challenge"], asked.json()["bits"]))
    worked = ask(client, **{"X-Dpsd-Work": solution})
    assert worked.status_code == 200 and "challenge" in worked.headers["x-level"]
    assert code(ask(client, **{"X-Dpsd-Work": solution})) == (428, "work_needed")
    hold(guard.store, policy, alice, "block", "me", "test")
    assert code(ask(client)) == (403, "blocked")


def test_bodies_are_bounded_in_size_and_time(make):
    app, client, _ = make(body_bytes=100, body_seconds=0.05)
    assert code(ask(client, "x" * 101)) == (413, "too_large")
    sent = []

    async def slow():
        await asyncio.sleep(10)

    async def send(message):
        sent.append(message)

    headers = [(b"x-who", b"alice")]
    scope = {"type": "http", "path": "/ask", "headers": headers, "method": "POST"}
    asyncio.run(app(scope, slow, send))
    assert sent[0]["status"] == 408 and json.loads(sent[1]["body"])["error"]["code"] == "too_slow"


def test_nothing_gets_around_it(make):
    _, client, _ = make(paths=("/ask", "/ws"), free=())
    with pytest.raises(WebSocketDisconnect), client.websocket_connect("/ws"):
        pass
    assert client.get("/ask").status_code == 401  # other methods count as well
    assert client.get("/ask/").status_code == 401 and client.get("/healthz").text == "ok"
    for k in range(11):  # neither another User-Agent nor X-Forwarded-For makes a new account
        last = ask(client, "one", **{"X-Forwarded-For": f"10.0.{k}.1", "User-Agent": str(k)})
    assert code(last) == (429, "rate_limited")


def test_flags_are_noted_once_an_hour(make):
    _, client, guard = make()
    for _ in range(3):
        ask(client, "!")
    found = guard.store.events(guard.store.by_name("alice").id)
    assert [(e["kind"], e["flag"], e["reason"]) for e in found] == [("flag", "w", "!")]


def test_functions_by_import_path_and_bad_starts(make):
    _, client, _ = make(account="test_middleware:who", embedder="test_middleware:words")
    assert ask(client).status_code == 200
    with pytest.raises(UserError, match="import path"):
        make(account="nowhere:who")
    with pytest.raises(UserError, match="tier: 'gold'; accepted: trial"):
        make(tier="gold")
