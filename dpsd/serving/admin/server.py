"""The dashboard beside the service, in a thread and an event loop of its own."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import uvicorn

from dpsd.guard.detection.sketch import Sketch
from dpsd.guard.guard import Guard
from dpsd.serving.admin.app import make_admin
from dpsd.serving.admin.board import Board, Points
from dpsd.serving.admin.groups import logged_groups
from dpsd.serving.app import Service

_DRAIN = 5  # seconds for pages that are on their way when the service is stopped


def make_board(
    service: Service,
    guard: Path,
    *,
    guarding: Guard | None = None,
    secure: bool = False,
    counted: bool = True,
) -> Board:
    """The board of a service.

    Args:
        service: what is served.
        guard: the guard's folder.
        guarding: its guard, for the policy, for honest traffic in pictures, and for how it is.
        secure: whether the dashboard is reached by TLS alone.
        counted: whether this process answers all requests.
    """
    board = Board(
        service.store, guard, service.pepper, tuple(service.settings.tiers), service.traffic,
        points_of=_points_of, groups=lambda: logged_groups(service.store),
        hosts=service.settings.dashboard.hosts, secure=secure, counted=counted,
    )  # fmt: skip
    if guarding is None:
        return board
    board = replace(board, policy=guarding.policy, state=guarding.state)
    if guarding.reference is None:
        return board
    return replace(board, honest=guarding.reference.benign.points)


@contextmanager
def admin_running(
    board: Board, listener: socket.socket, certificate: Path | None, private_key: Path | None
) -> Iterator[None]:
    """The dashboard on a listening socket, for as long as the context lasts."""
    server = uvicorn.Server(uvicorn.Config(
        make_admin(board), log_level="warning", timeout_graceful_shutdown=_DRAIN,
        timeout_keep_alive=5, server_header=False, proxy_headers=False, limit_concurrency=100,
        h11_max_incomplete_event_size=2**14, ssl_certfile=certificate, ssl_keyfile=private_key,
    ))  # fmt: skip
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]},
                              name="dpsd-dashboard", daemon=True)  # fmt: skip
    thread.start()
    try:
        yield
    finally:
        server.should_exit = True
        thread.join(2 * _DRAIN)


def _points_of(content: bytes) -> Points:
    return Sketch(content).points()
