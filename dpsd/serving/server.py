"""The HTTP server: where it listens, and what a connection may take."""

import contextlib
import ipaddress
import resource
import socket
from typing import Any

import uvicorn

from dpsd.errors import UserError
from dpsd.imports import brief
from dpsd.serving.protocol import http_protocol

_CONNECTIONS = 4_096  # beside the requests that are answered; idle ones are closed soon
_DRAIN = 10  # seconds for requests that are being answered when the service is stopped


def server_config(app: Any, at_once: int, look: float = 10.0, **more: Any) -> uvicorn.Config:
    """How an API is served, with bounds on what a connection may take.

    Args:
        app: the API, or what makes it.
        at_once: requests that it answers at once.
        look: seconds between two looks at a connection, see `http_protocol`.
        more: for uvicorn.
    """
    with contextlib.suppress(ValueError, OSError):  # as many open files as the system allows
        most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    return uvicorn.Config(
        app, http=http_protocol(look), ws="none", log_level="warning", server_header=False,
        timeout_graceful_shutdown=_DRAIN, timeout_keep_alive=5, proxy_headers=False,
        h11_max_incomplete_event_size=2**14, limit_concurrency=_CONNECTIONS + at_once, **more,
    )  # fmt: skip


def is_loopback(host: str) -> bool:
    """Whether a host is this machine's own, which nobody else reaches."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


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
