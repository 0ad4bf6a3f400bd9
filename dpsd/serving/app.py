"""The HTTP API: `POST /v1/predict`, `GET /v1/model`, health, metrics.

Gating comes first and is cheap: key, limits, sizes. What cannot be counted is not answered.
"""

import asyncio
import hashlib
import sqlite3
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from types import MappingProxyType
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse, PlainTextResponse
from fastapi.routing import APIRoute
from limits.errors import StorageError
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from starlette.datastructures import UploadFile
from starlette.types import Receive, Scope, Send

from dpsd.config import PublicFacts
from dpsd.defences import answered
from dpsd.guard.accounts import who
from dpsd.guard.detection.reference import Reference
from dpsd.guard.detection.watch import Observation
from dpsd.guard.guard import Guard
from dpsd.guard.limits import Limits, Refusal
from dpsd.guard.proof_of_work.toll import Toll
from dpsd.guard.proof_of_work.work import HEADER, Spent
from dpsd.guard.storage.redis_store import RedisStore
from dpsd.guard.storage.store import Account, Store, StoreError
from dpsd.serving.decode import NPY, BadRequest, Sizes, read_json, read_npy, read_pictures
from dpsd.serving.frame import Frame
from dpsd.serving.network import network_of
from dpsd.serving.predictor import Ask, Batcher
from dpsd.serving.settings import ServeSettings
from dpsd.serving.traffic import Traffic

_PREDICT = "/v1/predict"
_DECIMALS = 7
_BODY_SECONDS = 30
_DECODERS = 2  # requests whose pictures are decoded at once


@dataclass(frozen=True)
class Service:
    """All that the API needs.

    Attributes:
        facts: shape and classes of the served student.
        ask: the student.
        about: card and statement of the release, for `/v1/model`.
        settings: limits, tiers, policy.
        store: the guard's memory.
        pepper: of keys.
        secret: key of the defences.
        shared: Redis address at which several workers count together; None: this process alone.
        reference: what honest traffic looks like; None: nothing is detected.
        beside: the same memory for the thread that watches; None: `store`.
        traffic: counts requests and images by minute, for the dashboard.
        sharing: key of indicators that partners may be told; None: nothing is told.
    """

    facts: PublicFacts
    ask: Ask
    about: dict[str, Any]
    settings: ServeSettings
    store: Store
    pepper: bytes
    secret: bytes
    shared: str | None = None
    reference: Reference | None = None
    beside: Store | None = None
    traffic: Traffic = field(default_factory=Traffic)
    sharing: bytes | None = None

    def guard(self) -> Guard:
        """The guard of these settings.

        Raises:
            UserError: settings that do not go together.
        """
        chosen = self.settings
        limits = Limits(chosen.tier_table(), chosen.limits.network_images_per_minute,
                        chosen.limits.images_per_minute, self.store, self.shared)  # fmt: skip
        reference = self.reference if chosen.detection.watch else None
        honest = None if reference is None else reference.information
        secret = hashlib.blake2b(b"dpsd work", key=self.pepper, digest_size=32).digest()
        spent = self.store if isinstance(self.store, RedisStore) else Spent()
        toll = Toll(secret, chosen.detection.work_hashes, honest, spent=spent)
        return Guard(self.store, limits, chosen.policy_table(), reference, self.pepper, toll,
                     self.beside, self.sharing,
                     60.0 * chosen.detection.clusters_minutes,
                     86_400.0 * chosen.detection.days)  # fmt: skip


class _Direct(APIRoute):
    """A route whose function takes the request itself: FastAPI has nothing to work out."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        return self.endpoint


def make_app(service: Service, guard: Guard | None = None) -> FastAPI:
    """The API of one service.

    Args:
        service: what is served.
        guard: before it; None: `service.guard()`.

    Raises:
        UserError: settings that do not go together.
    """
    settings, store = service.settings, service.store
    guard = guard or service.guard()
    limits, tiers = guard.limits, guard.limits.tiers
    sizes = Sizes(service.facts.shape, settings.limits.images_per_request, settings.limits.pixels)
    batcher, registry = Batcher(service.ask), CollectorRegistry()
    requests = Counter("dpsd_requests", "Requests", ["path", "code"], registry=registry)
    images_asked = Counter("dpsd_images", "Images answered", ["tier"], registry=registry)
    seconds = Histogram("dpsd_predict_seconds", "Seconds of a prediction", registry=registry)
    observed = Gauge("dpsd_observations", "Requests that were not looked at", ["why"],
                     registry=registry)  # fmt: skip
    state = {"open": True}
    decoding = asyncio.Semaphore(_DECODERS)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        state["open"] = False
        await asyncio.to_thread(guard.drain)

    app = FastAPI(title="dpsd", version="1", lifespan=lifespan,
                  description="A released student behind a guard.")  # fmt: skip
    app.router.route_class = _Direct
    labelled = lru_cache(maxsize=256)(requests.labels)

    def counted(path: str, status: int) -> None:
        labelled(path, str(status)).inc()
        service.traffic.request(status)

    async def short(scope: Scope, receive: Receive, send: Send) -> None:
        """`predict` alone, with the errors that it may raise."""
        request = Request(scope, receive)
        try:
            response = await predict(request)
        except BadRequest as e:
            response = await bad(request, e)
        except (sqlite3.Error, StoreError, StorageError) as e:
            response = await unwritable(request, e)
        await response(scope, receive, send)

    app.add_middleware(Frame, short=(_PREDICT, short), at_once=settings.limits.requests_at_once,
                       count=counted)  # fmt: skip

    @app.exception_handler(BadRequest)
    async def bad(request: Request, error: BadRequest) -> Response:
        return _error(request, error.status, error.code, str(error))

    @app.exception_handler(sqlite3.Error)
    @app.exception_handler(StoreError)
    @app.exception_handler(StorageError)
    async def unwritable(request: Request, _: Exception) -> Response:
        text = "charges cannot be written now, so nothing is answered"
        return _error(request, 503, "store_unavailable", text, 5)

    @app.post(_PREDICT, openapi_extra=_BODY)
    async def predict(request: Request) -> Response:
        """Classes, and what the account's tier shows of the probabilities."""
        network = network_of(request, settings.proxies)
        account = await _account(request, network)
        labels_only = _labels_only(request)
        images = await _images(request)
        solution = request.headers.get(HEADER, "")
        standing = guard.standing(account)
        refusal = guard.gate(account, network, len(images), solution, standing)
        if refusal is not None:
            return _refused(request, refusal)
        start = time.perf_counter()
        said, features = await batcher.answer(images)
        answers = answered(said, images, standing.defences, service.secret, account.id)
        seconds.observe(time.perf_counter() - start)
        images_asked.labels(account.tier).inc(len(images))
        agent = request.headers.get("user-agent", "")
        guard.observe(Observation(
            account.id, time.time(), features.numpy(), said.numpy(), wanted=not labels_only,
            indicators=guard.indicators(account, network=network, agent=agent),
        ))  # fmt: skip
        service.traffic.answered(len(images))
        tree: dict[str, Any] = {"labels": answers.argmax(1).tolist()}
        if not (labels_only or standing.hides_probabilities):
            tree["probabilities"] = [[round(p, _DECIMALS) for p in row] for row in answers.tolist()]
        return JSONResponse(tree)

    @app.get("/v1/model")
    async def model(request: Request) -> Response:
        """Shape, classes, limits of the account's tier, card and statement."""
        account = await _account(request, network_of(request, settings.proxies))
        tier = tiers.get(account.tier)
        standing = guard.standing(account)
        return JSONResponse({
            "shape": list(service.facts.shape), "classes": service.facts.classes,
            "class_names": list(service.facts.class_names),
            "output": "labels" if standing.hides_probabilities else "probabilities",
            "tier": account.tier,
            "images_per_minute": tier.per_minute if tier else 0,
            "images_per_day": tier.per_day if tier else 0,
            "images_per_request": settings.limits.images_per_request,
            "wrong_labels_on_purpose": settings.wrong_labels(account.tier),
        } | service.about)  # fmt: skip

    @app.get("/healthz")
    async def healthz(_: Request) -> Response:
        """The process lives."""
        return PlainTextResponse("ok\n")

    @app.get("/readyz")
    async def readyz(_: Request) -> Response:
        """Whether questions can be charged and answered."""
        parts = guard.state()
        ready = state["open"] and parts["store"] == "ok"
        return JSONResponse(parts, 200 if ready else 503)

    @app.get("/metrics")
    async def metrics(_: Request) -> Response:
        """Prometheus text."""
        for name, value in guard.state().items():
            if isinstance(value, int):
                observed.labels(name).set(value)
        return PlainTextResponse(generate_latest(registry))

    async def _account(request: Request, network: str) -> Account:
        scheme, _, key = request.headers.get("authorization", "").partition(" ")
        if not limits.may_guess(network):
            raise BadRequest(429, "too_many_keys", "too many wrong keys from this network")
        account = who(store, service.pepper, key) if scheme.lower() == "bearer" else None
        if account is None:
            limits.guessed(network)
            text = "no account has this key; send Authorization: Bearer KEY, as it was shown once"
            raise BadRequest(401, "bad_key", text)
        if account.state != "active":
            raise BadRequest(403, "blocked", "this account is blocked; ask the operator")
        if account.expires is not None and account.expires < time.time():
            raise BadRequest(403, "expired", "this account has expired; ask the operator")
        return account

    async def _images(request: Request) -> Any:
        kind = request.headers.get("content-type", "").split(";")[0].strip().lower()
        try:
            async with asyncio.timeout(_BODY_SECONDS):
                if kind == "multipart/form-data":
                    files = await _files(request, settings)
                else:
                    body = await _body(request, settings.limits.body_bytes)
        except TimeoutError as e:
            text = f"the body took longer than {_BODY_SECONDS} seconds"
            raise BadRequest(408, "too_slow", text) from e
        if kind == NPY:
            return read_npy(body, sizes)
        async with decoding:  # pictures take long, and others are answered meanwhile
            if kind == "multipart/form-data":
                return await asyncio.to_thread(read_pictures, files, sizes)
            if kind == "application/json":
                return await asyncio.to_thread(read_json, body, sizes)
            if kind in ("image/png", "image/jpeg"):
                return await asyncio.to_thread(read_pictures, [body], sizes)
        accepted = f"accepted: {NPY}, application/json, image/png, image/jpeg, multipart/form-data"
        raise BadRequest(415, "bad_type", accepted)

    return app


async def _body(request: Request, most: int) -> bytes:
    """The body, refused as soon as it is too long."""
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > most:
            raise BadRequest(413, "too_large", f"the body is longer than {most:,} bytes")
        parts.append(part)
    return b"".join(parts)


async def _files(request: Request, settings: ServeSettings) -> list[bytes]:
    """The uploaded files of a form."""
    most = settings.limits.body_bytes
    declared = request.headers.get("content-length", "")
    if not declared.isdigit() or int(declared) > most:
        raise BadRequest(413, "too_large", f"a form needs a Content-Length of at most {most:,}")
    try:
        form = await request.form(max_files=settings.limits.images_per_request, max_fields=10)
        found = [await f.read() for f in form.getlist("images") if isinstance(f, UploadFile)]
    except Exception as e:
        raise BadRequest(400, "bad_form", "no readable form with files named images") from e
    return found


def _labels_only(request: Request) -> bool:
    """Whether `?output=labels` asks for less than the tier shows."""
    output = request.query_params.get("output", "probabilities")
    if output not in ("labels", "probabilities"):
        raise BadRequest(
            400, "bad_output", f"output={output[:20]}; accepted: labels, probabilities"
        )
    return output == "labels"


def _refused(request: Request, refusal: Refusal) -> Response:
    """Why the guard does not answer now; with a puzzle where it wants work."""
    status = refusal.status or (429 if refusal.retry_after is not None else 413)
    puzzle = refusal.puzzle
    more = {} if puzzle is None else {"challenge": puzzle.challenge, "bits": puzzle.bits}
    return _error(request, status, refusal.code, refusal.message, refusal.retry_after, more)


def _error(
    request: Request,
    status: int,
    code: str,
    message: str,
    retry_after: int | None = None,
    more: Mapping[str, object] = MappingProxyType({}),
) -> Response:
    headers = {} if retry_after is None else {"Retry-After": str(retry_after)}
    if status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    known = {"code": code, "message": message, "request_id": request.state.id}
    return JSONResponse({"error": known} | dict(more), status, headers)


_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            NPY: {"schema": {"type": "string", "format": "binary",
                             "description": "uint8 [B, C, H, W], C order"}},
            "application/json": {
                "schema": {"type": "object", "required": ["images"], "properties": {
                    "images": {"type": "array", "items": {"type": "string", "format": "byte"}}}},
                "example": {"images": ["iVBORw0KGgo..."]},
            },
            "image/png": {"schema": {"type": "string", "format": "binary"}},
            "image/jpeg": {"schema": {"type": "string", "format": "binary"}},
            "multipart/form-data": {
                "schema": {"type": "object", "properties": {"images": {
                    "type": "array", "items": {"type": "string", "format": "binary"}}}}},
        },
    }
}  # fmt: skip
