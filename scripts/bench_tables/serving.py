"""What the guard costs a served student: latency at fixed rates and throughput, loopback only.

Three services of one run, one after the other, each in a process of its own: bare (FastAPI on
uvicorn with the same model and the same batches, nobody is asked for a key), guarded without
detection, and guarded with it. The client is a process beside them on the same cores.
"""

import asyncio
import io
import multiprocessing as mp
import socket
import statistics
import tempfile
import time
from argparse import Namespace
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse

from bench_tables.jobs import RESULTS, Job
from dpsd.config import PublicFacts, load_config
from dpsd.guard.accounts import add_account
from dpsd.guard.storage.sqlite_store import SqliteStore
from dpsd.runs.release import release_folder
from dpsd.serving.app import Service, make_app
from dpsd.serving.calibration import calibrate_guard
from dpsd.serving.decode import NPY, Sizes, read_npy
from dpsd.serving.predictor import Batcher, fastest
from dpsd.serving.server import server_config
from dpsd.serving.settings import LimitSettings, PolicySettings, ServeSettings, TierSettings

KINDS = ("bare", "guarded without detection", "guarded")
RATES = (50, 200)
_MANY = 100_000_000
_SETTINGS = ServeSettings(
    tiers={"open": TierSettings(per_minute=_MANY)},
    limits=LimitSettings(images_per_minute=_MANY, network_images_per_minute=_MANY),
    policy=PolicySettings(dry_run=True),
)
_PEPPER = bytes(32)


def jobs(args: Namespace) -> Iterator[Job]:
    """One file."""
    seconds = max(1, 20 // args.shrink)
    yield Job(RESULTS / "guard" / "serving.json", {"cell": "serving", "seconds_each": seconds},
              partial(measure, args.run, seconds))  # fmt: skip


def measure(run: Path, seconds: int) -> dict[str, Any]:
    """All kinds at all rates; twice in turn, so that a slow minute does not fall on one of them."""
    facts = load_config(release_folder(run) / "config.yaml").facts
    found: dict[str, Any] = {kind: {str(rate): [] for rate in RATES} | {"throughput": []}
                             for kind in KINDS}  # fmt: skip
    for _ in range(2):
        for kind in KINDS:
            with tempfile.TemporaryDirectory() as folder:
                _one(kind, run, facts, Path(folder), seconds, found[kind])
    return {"run": run.name, "shape": list(facts.shape), "services": {
        kind: {key: _summary(values) if key != "throughput" else statistics.median(values)
               for key, values in figures.items()} for kind, figures in found.items()},
        "images_a_request": 1}  # fmt: skip


def _one(
    kind: str, run: Path, facts: PublicFacts, folder: Path, seconds: int, found: dict[str, Any]
) -> None:
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen(1024)
    store = SqliteStore(folder / "guard.sqlite")
    key = add_account(store, _PEPPER, "load", "open")[1]
    store.close()
    server = mp.get_context("fork").Process(
        target=_serve, args=(kind, run, facts, folder, listener), daemon=True
    )
    server.start()
    body = io.BytesIO()
    np.save(body, np.random.default_rng(0).integers(0, 256, (1, *facts.shape), np.uint8))
    head = (f"POST /v1/predict HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\n"
            f"Content-Type: {NPY}\r\nContent-Length: {len(body.getvalue())}\r\n\r\n")  # fmt: skip
    request, port = head.encode() + body.getvalue(), listener.getsockname()[1]
    try:
        asyncio.run(_throughput(port, request, 2))  # until it is up and warm
        for rate in RATES:
            found[str(rate)] += asyncio.run(_paced(port, request, rate, seconds))
        found["throughput"].append(asyncio.run(_throughput(port, request, seconds)))
    finally:
        server.kill()
        server.join()
        listener.close()


def _serve(kind: str, run: Path, facts: PublicFacts, folder: Path, listener: Any) -> None:
    torch.set_num_threads(1)
    ask = fastest(release_folder(run), facts.shape, folder, lambda text: None)
    if kind == "bare":
        app = _bare(ask, facts)
    else:
        reference = beside = None
        if kind == "guarded":
            images = torch.randint(0, 256, (600, *facts.shape), dtype=torch.uint8)
            reference = calibrate_guard(ask, images, alpha=0.01, accounts=900, seed=0,
                                        say=lambda text: None)  # fmt: skip
            beside = SqliteStore(folder / "guard.sqlite")
        app = make_app(Service(facts, ask, {}, _SETTINGS, SqliteStore(folder / "guard.sqlite"),
                               _PEPPER, bytes(32), None, reference, beside))  # fmt: skip
    uvicorn.Server(server_config(app, 200)).run(sockets=[listener])


def _bare(ask: Any, facts: PublicFacts) -> FastAPI:
    """The model over HTTP, without key, limit, defence or guard."""
    app, batcher, sizes = FastAPI(), Batcher(ask), Sizes(facts.shape, 256, 2**24)

    @app.post("/v1/predict")
    async def predict(request: Request) -> JSONResponse:
        said, _ = await batcher.answer(read_npy(await request.body(), sizes))
        return JSONResponse({"labels": said.argmax(1).tolist(), "probabilities": said.tolist()})

    return app


async def _paced(port: int, request: bytes, rate: int, seconds: int) -> list[float]:
    """Milliseconds of requests that start at a fixed rate, whatever the answers take."""
    free: asyncio.Queue[Any] = asyncio.Queue()
    for _ in range(32):
        free.put_nowait(await asyncio.open_connection("127.0.0.1", port))
    start, found = time.perf_counter(), []

    async def one(due: float) -> None:
        connection = await free.get()
        await _ask(connection, request)
        found.append(1000 * (time.perf_counter() - due))
        free.put_nowait(connection)

    tasks = []
    for i in range(rate * seconds):
        due = start + i / rate
        await asyncio.sleep(max(0, due - time.perf_counter()))
        tasks.append(asyncio.create_task(one(due)))
    await asyncio.gather(*tasks)
    return found


async def _throughput(port: int, request: bytes, seconds: float) -> float:
    """Requests a second of 16 connections that each ask again once they are answered."""
    end, count = time.perf_counter() + seconds, 0

    async def work() -> None:
        nonlocal count
        while True:  # the service may not be up yet
            try:
                connection = await asyncio.open_connection("127.0.0.1", port)
                await _ask(connection, request)
                break
            except OSError:
                await asyncio.sleep(0.2)
        while time.perf_counter() < end:
            await _ask(connection, request)
            count += 1
        connection[1].close()

    await asyncio.gather(*(work() for _ in range(16)))
    return count / seconds


async def _ask(connection: Any, request: bytes) -> None:
    reader, writer = connection
    writer.write(request)
    head = await reader.readuntil(b"\r\n\r\n")
    if b" 200 " not in head.split(b"\r\n")[0]:
        raise RuntimeError(head.decode())
    length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
    await reader.readexactly(length)


def _summary(values: list[float]) -> dict[str, float]:
    p50, p95, p99 = np.percentile(values, [50, 95, 99])
    return {"p50": float(p50), "p95": float(p95), "p99": float(p99), "requests": len(values)}
