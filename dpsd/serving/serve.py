"""Start the service of a run: only what is under `release/` is read."""

import os
import socket
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI

from dpsd.console import Say
from dpsd.errors import UserError
from dpsd.guard.admin_key import admin_hash
from dpsd.guard.storage.redis_store import RedisStore
from dpsd.guard.storage.stores import shared_address
from dpsd.serving.admin.server import admin_running, make_board
from dpsd.serving.app import make_app
from dpsd.serving.server import is_loopback, listen, server_config
from dpsd.serving.service import guard_folder, make_service
from dpsd.serving.settings import read_settings
from dpsd.serving.workers import Worker, serve_workers

_ADMIN_PORT = 8001


def serve(
    run: Path,
    *,
    config: Path | None = None,
    host: str = "127.0.0.1",
    port: int = 8000,
    admin_host: str = "127.0.0.1",
    admin_port: int | None = None,
    behind_proxy: bool = False,
    certificate: Path | None = None,
    private_key: Path | None = None,
    store: str | None = None,
    workers: int = 1,
    mark_key: Path | None = None,
    say: Say = lambda text: None,
) -> None:
    """Serve until the process is told to stop.

    Args:
        run: a run or a release folder.
        config: a YAML of `dpsd.serving.settings.ServeSettings`.
        host: to listen on; other than this machine's own needs TLS or `behind_proxy`.
        port: to listen on.
        admin_host: the dashboard's; other than this machine's own as `host`.
        admin_port: the dashboard's; None: 8001 where there is an admin key, else no dashboard.
        behind_proxy: a proxy of the operator's ends TLS.
        certificate: PEM file for TLS.
        private_key: PEM file of the certificate.
        store: address of a Redis; None: what `DPSD_STORE` says, else SQLite beside the release.
        workers: processes that answer; more than one needs Redis.
        mark_key: file with the key of a mark of `dpsd watermark`, for the tiers' defences.
        say: receives lines for the operator.

    Raises:
        UserError: a host without TLS, a port in use, settings or a release that cannot be used.
    """
    settings = read_settings(config)
    if (certificate is None) != (private_key is None):
        raise UserError("--certificate: needs --private-key FILE, and the other way round")
    for option, name in (("--host", host), ("--admin-host", admin_host)):
        if not (is_loopback(name) or behind_proxy or certificate):
            raise UserError(
                f"{option}: {name} is reachable by others; accepted: 127.0.0.1, or with "
                "--certificate and --private-key, or with --behind-proxy where a proxy ends TLS"
            )
    if not (is_loopback(admin_host) or settings.dashboard.hosts):
        raise UserError(f"--admin-host: {admin_host}; name it under dashboard.hosts of --config")
    if workers > 1 and shared_address(store) is None:
        raise UserError(
            f"--workers: {workers} processes cannot count minutes together in SQLite; accepted: 1, "
            "or --store redis://127.0.0.1:6379"
        )
    with ExitStack() as stack:
        listener = stack.enter_context(listen(host, port))
        desk = _admin_listener(guard_folder(run), admin_host, admin_port, stack)
        say(f"loading the student of {run}")
        service = make_service(run, settings, say, store, mark_key)
        guard = service.guard()
        stack.callback(guard.close)
        app = make_app(service, guard)
        if isinstance(service.store, RedisStore):
            say(f"store {service.store.place}: {service.store.durability()}")
        if not service.store.accounts():
            say(f"no account yet: dpsd account add {run} NAME --tier TIER")
        scheme = "http" if certificate is None else "https"
        if desk is None:
            say(f"no dashboard: dpsd account admin {run} makes its key")
        else:
            board = make_board(service, guard_folder(run), guarding=guard,
                               secure=certificate is not None, counted=workers == 1)  # fmt: skip
            stack.enter_context(admin_running(board, desk, certificate, private_key))
            say(f"dashboard on {scheme}://{admin_host}:{desk.getsockname()[1]}")
        say(f"serving on {scheme}://{host}:{listener.getsockname()[1]} (Ctrl-C stops)")
        at_once = settings.limits.requests_at_once
        tls: dict[str, Any] = {"ssl_certfile": certificate, "ssl_keyfile": private_key}
        if workers > 1:
            make = WorkersApp(run, config, store, mark_key)
            serve_workers(Worker(make, at_once, os.getpid(), tls), workers, listener)
        else:
            uvicorn.Server(server_config(app, at_once, **tls)).run(sockets=[listener])


@dataclass(frozen=True)
class WorkersApp:
    """Makes the application of a run, in a worker."""

    run: Path
    config: Path | None
    place: str | None
    mark_key: Path | None = None

    def __call__(self) -> FastAPI:
        """The application."""
        settings = read_settings(self.config)
        service = make_service(self.run, settings, lambda text: None, self.place, self.mark_key)
        return make_app(service)


def _admin_listener(
    guard: Path, host: str, port: int | None, stack: ExitStack
) -> socket.socket | None:
    """The dashboard's socket; None where none is asked for and there is no admin key."""
    if not admin_hash(guard):
        if port is not None:
            raise UserError("--admin-port: no key opens it; dpsd account admin RUN makes one")
        return None
    return stack.enter_context(listen(host, _ADMIN_PORT if port is None else port, "--admin-port"))
