"""Several processes that answer on one listening socket; a worker that dies is replaced."""

import os
import signal
import socket
import threading
import time

import uvicorn
from uvicorn.supervisors import Multiprocess

_UNRESPONSIVE = 30  # seconds after which a worker that does not even pong is replaced


def serve_workers(config: uvicorn.Config, listener: socket.socket) -> None:
    """Serve until the process is told to stop.

    Args:
        config: with a factory of the application, which must be picklable, and at least 2 workers.
        listener: listens already; the kernel hands each connection to one worker.
    """
    config.timeout_worker_healthcheck = _UNRESPONSIVE
    Multiprocess(config, target=uvicorn.Server(config).run, sockets=[listener]).run()


def end_with_parent(parent: int) -> None:
    """End this worker gracefully, a second at most after the process `parent` is gone."""

    def look() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=look, name="dpsd-parent", daemon=True).start()
