"""Start the service of a run: only what is under `release/` is read."""

import contextlib
import hashlib
import ipaddress
import resource
import socket
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI

from dpsd.config import load_config
from dpsd.console import Say
from dpsd.errors import UserError
from dpsd.files import read_json
from dpsd.guard.accounts import read_pepper
from dpsd.guard.admin_key import admin_hash
from dpsd.guard.reference import Reference, read_reference
from dpsd.guard.sqlite_store import SqliteStore
from dpsd.imports import brief
from dpsd.runs.release import release_folder
from dpsd.serving.admin.server import admin_running, make_board
from dpsd.serving.app import Service, make_app
from dpsd.serving.predictor import fastest
from dpsd.serving.protocol import http_protocol
from dpsd.serving.settings import ServeSettings, read_settings

_CONNECTIONS = 4_096  # beside the requests that are answered; idle ones are closed soon
_ADMIN_PORT = 8001
_DRAIN = 10  # seconds for requests that are being answered when the service is stopped


def guard_folder(run: Path) -> Path:
    """Where the guard of a run keeps its store and pepper: `guard` beside the release."""
    return release_folder(run).absolute().parent / "guard"


def make_service(run: Path, settings: ServeSettings, say: Say) -> Service:
    """The service of a run's release.

    Raises:
        UserError: no release, or a store that cannot be used.
    """
    release, guard = release_folder(run), guard_folder(run)
    facts = load_config(release / "config.yaml").facts
    store, pepper = SqliteStore(guard / "guard.sqlite"), read_pepper(guard / "pepper")
    about = {"card": (release / "README.md").read_text(),
             "statement": read_json(release / "statement.json")}  # fmt: skip
    secret = hashlib.blake2b(b"dpsd defences", key=pepper, digest_size=32).digest()
    ask = fastest(release, facts.shape, guard, say)
    reference = _reference(guard, settings, say)
    beside = None if reference is None else SqliteStore(guard / "guard.sqlite", durable=False)
    return Service(facts, ask, about, settings, store, pepper, secret, reference, beside)


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
    with ExitStack() as stack:
        listener = stack.enter_context(listen(host, port))
        desk = _admin_listener(guard_folder(run), admin_host, admin_port, stack)
        service = make_service(run, settings, say)
        guard = service.guard()
        stack.callback(guard.close)
        app = make_app(service, guard)
        if not service.store.accounts():
            say(f"no account yet: dpsd account add {run} NAME --tier TIER")
        scheme = "http" if certificate is None else "https"
        if desk is None:
            say(f"no dashboard: dpsd account admin {run} makes its key")
        else:
            secure = certificate is not None
            board = make_board(service, guard_folder(run), policy=guard.policy,
                               reference=guard.reference, secure=secure)  # fmt: skip
            stack.enter_context(admin_running(board, desk, certificate, private_key))
            say(f"dashboard on {scheme}://{admin_host}:{desk.getsockname()[1]}")
        say(f"serving on {scheme}://{host}:{listener.getsockname()[1]} (Ctrl-C stops)")
        server = make_server(app, settings.limits.requests_at_once,
                             ssl_certfile=certificate, ssl_keyfile=private_key)  # fmt: skip
        server.run(sockets=[listener])


def _reference(guard: Path, settings: ServeSettings, say: Say) -> Reference | None:
    """The calibration, where there is one."""
    path = settings.detection.reference or guard / "reference.npz"
    if not settings.detection.on:
        return None
    if settings.detection.reference is None and not path.exists():
        say("detection is off: no reference yet; dpsd guard calibrate makes one")
        return None
    found = read_reference(path)
    dry = " (a dry run: answers do not change)" if settings.policy.dry_run else ""
    say(f"detection is on: false alarms {found.alpha:g} an account over the calibrated time, "
        f"{found.accounts:,} honest accounts{dry}")  # fmt: skip
    return found


def make_server(app: FastAPI, at_once: int, look: float = 10.0, **more: Any) -> uvicorn.Server:
    """The server of an API, with bounds on what a connection may take.

    Args:
        app: the API.
        at_once: requests that it answers at once.
        look: seconds between two looks at a connection, see `http_protocol`.
        more: for uvicorn.
    """
    with contextlib.suppress(ValueError, OSError):  # as many open files as the system allows
        most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    return uvicorn.Server(uvicorn.Config(
        app, http=http_protocol(look), ws="none", log_level="warning", server_header=False,
        timeout_graceful_shutdown=_DRAIN, timeout_keep_alive=5, proxy_headers=False,
        h11_max_incomplete_event_size=2**14, limit_concurrency=_CONNECTIONS + at_once, **more,
    ))  # fmt: skip


def is_loopback(host: str) -> bool:
    """Whether a host is this machine's own, which nobody else reaches."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _admin_listener(
    guard: Path, host: str, port: int | None, stack: ExitStack
) -> socket.socket | None:
    """The dashboard's socket; None where none is asked for and there is no admin key."""
    if not admin_hash(guard):
        if port is not None:
            raise UserError("--admin-port: no key opens it; dpsd account admin RUN makes one")
        return None
    return stack.enter_context(listen(host, _ADMIN_PORT if port is None else port, "--admin-port"))


def listen(host: str, port: int, option: str = "--port") -> socket.socket:
    """A socket that listens, before anything else is begun.

    Args:
        host: to listen on.
        port: to listen on; 0: any that is free.
        option: that the port came from, for the error.

    Raises:
        UserError: the port is in use or the host is not this machine's.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(1024)
    except (OSError, OverflowError) as e:
        listener.close()
        raise UserError(f"{option}: {host}:{port} cannot be used ({brief(e)})") from e
    return listener
