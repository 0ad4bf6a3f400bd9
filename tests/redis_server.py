"""Debian's redis-server on a free port of this machine, for tests."""

import shutil
import socket
import subprocess
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

MISSING = "redis-server is not installed: what needs Redis is NOT tested here (apt install it)"


@contextmanager
def redis_server(folder: Path, *options: str, port: int = 0) -> Iterator[str]:
    """The address of a server that keeps its files in `folder` and is killed at the end.

    Args:
        folder: for its append-only file.
        options: of redis-server, as `--appendonly yes`.
        port: to listen on; 0: a free one.
    """
    program = shutil.which("redis-server") or shutil.which("valkey-server")
    if program is None:
        warnings.warn(MISSING, stacklevel=2)
        pytest.skip(MISSING)
    port = port or _free_port()
    command = [program, "--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder),
               "--save", "", "--daemonize", "no", *options]  # fmt: skip
    with (folder / "redis.log").open("ab") as log:
        running = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        _wait(running, port)
        yield f"redis://127.0.0.1:{port}/0"
    finally:
        running.kill()  # as a crash: what is kept then is kept always
        running.wait(10)


def _wait(running: subprocess.Popen[bytes], port: int) -> None:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline and running.poll() is None:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1) as s:
            s.sendall(b"PING\r\n")
            if s.recv(7).startswith(b"+PONG"):
                return
        time.sleep(0.02)
    raise RuntimeError("redis-server did not start; see redis.log")


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])
