"""Several processes that answer on one listening socket; a worker that dies is replaced."""

import os
import signal
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import uvicorn
from uvicorn.supervisors import Multiprocess

from dpsd.serving.server import server_config

_UNRESPONSIVE = 30  # seconds after which a worker that does not even pong is replaced


@dataclass(frozen=True)
class Worker:
    """One process that answers; everything is made in it, so that only settings travel to it.

    Attributes:
        make: makes the application; must be picklable, as all of this.
        at_once: requests that the application answers at once.
        parent: process that starts the worker.
        tls: of `uvicorn.Config`.
    """

    make: Callable[[], Any]
    at_once: int
    parent: int
    tls: dict[str, Any]

    def __call__(self, sockets: list[socket.socket] | None) -> None:
        """Answer until the process is told to stop."""
        end_with_parent(self.parent)
        config = server_config(self.make(), self.at_once, **self.tls)
        uvicorn.Server(config).run(sockets=sockets)


def serve_workers(worker: Worker, workers: int, listener: socket.socket) -> None:
    """Serve until the process is told to stop.

    Args:
        worker: what each process does.
        workers: processes, at least 2.
        listener: listens already; the kernel hands each connection to one worker.
    """
    config = uvicorn.Config("", workers=workers, log_level="warning",
                            timeout_worker_healthcheck=_UNRESPONSIVE)  # fmt: skip
    Multiprocess(config, target=worker, sockets=[listener]).run()


def end_with_parent(parent: int) -> None:
    """End this worker gracefully, a second at most after the process `parent` is gone."""

    def look() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=look, name="dpsd-parent", daemon=True).start()
