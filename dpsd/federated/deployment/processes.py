"""Processes that never outlive the one that started them."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

_GRACE_S = 6.0  # longer than Flower's own forced exit after five seconds
_ORPHAN_GRACE_S = 1.0  # short: where nobody reaps orphans, a group of zombies looks alive
# PR_SET_PDEATHSIG is 1: the kernel ends the process when dpsd dies, even by SIGKILL (Linux only).
_LAUNCH = """
import os, signal, sys
if sys.platform == "linux":
    import ctypes
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)
if os.getppid() == int(sys.argv[1]):
    os.execvpe(sys.argv[2], sys.argv[2:], os.environ)
"""


@dataclass(frozen=True)
class Started:
    """One process. It leads its own session and group; its output goes to its own file."""

    name: str
    popen: "subprocess.Popen[bytes]"
    log: Path

    @property
    def code(self) -> int | None:
        """Exit code; None while it runs, negative for a signal."""
        return self.popen.poll()


@dataclass(frozen=True)
class Processes:
    """The processes started in one `processes` block, in order."""

    folder: Path
    environment: Mapping[str, str]
    started: list[Started] = field(default_factory=list)

    def start(self, name: str, command: Sequence[str], **environment: str) -> Started:
        """Start `command`, with `environment` added; its output goes to `folder/name.log`.

        The command's first word is looked up in the environment's PATH. The process gets a session
        of its own. A Ctrl-C in the terminal thus reaches dpsd alone, and dpsd stops all in order.
        """
        log = self.folder / f"{name}.log"
        launch = [sys.executable, "-I", "-S", "-c", _LAUNCH, str(os.getpid()), *command]
        with log.open("ab") as out:
            popen = subprocess.Popen(
                launch, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT,
                env={**self.environment, **environment}, start_new_session=True,
            )  # fmt: skip
        self.started.append(Started(name, popen, log))
        return self.started[-1]

    def named(self, name: str) -> Started:
        """The process of that name."""
        return next(one for one in self.started if one.name == name)

    def codes(self) -> dict[str, int | None]:
        """Exit code of each process by its name."""
        return {started.name: started.code for started in self.started}


@contextlib.contextmanager
def processes(folder: Path, environment: Mapping[str, str]) -> Iterator[Processes]:
    """A block to start processes in; however it ends, they and their children are gone after it.

    They are stopped by process id, the last started first. The group of each gets SIGTERM. Groups
    that are still there some seconds later get SIGKILL.

    Raises:
        KeyboardInterrupt: inside the block, on SIGTERM (in the main thread) as on Ctrl-C.
    """
    mine = Processes(folder, environment)
    with _terminate_as_interrupt():
        try:
            yield mine
        finally:
            with _uninterrupted():
                _stop(mine.started)


def _stop(started: list[Started]) -> None:
    for one in reversed(started):
        _signal(one, signal.SIGTERM)
    _wait_while(lambda: any(one.code is None for one in started), _GRACE_S)
    _wait_while(lambda: any(_signal(one, 0) for one in started), _ORPHAN_GRACE_S)
    for one in started:
        _signal(one, signal.SIGKILL)
    for one in started:
        one.popen.wait()
    _wait_while(lambda: any(_signal(one, 0) for one in started), _ORPHAN_GRACE_S)


def _wait_while(condition: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while condition() and time.monotonic() < deadline:
        time.sleep(0.05)


def _signal(one: Started, number: int) -> bool:
    try:
        os.killpg(one.popen.pid, number)
    except (ProcessLookupError, PermissionError):  # PermissionError: a group of zombies on macOS
        return False
    return True


@contextlib.contextmanager
def _uninterrupted() -> Iterator[None]:
    """Ignore Ctrl-C: a second one must not keep the processes from being stopped."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@contextlib.contextmanager
def _terminate_as_interrupt() -> Iterator[None]:
    """SIGTERM to dpsd unwinds the stack, as Ctrl-C does."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
