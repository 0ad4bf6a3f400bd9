"""A SuperNode with the task runner that belongs to it: a client's side of a deployment.

`python -m dpsd.federated.node` runs one on a client's own machine, with the client's own
configuration, against a SuperLink elsewhere.
"""

import argparse
import contextlib
import os
import re
import secrets
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from dpsd.console import say
from dpsd.errors import UserError
from dpsd.federated.certificates import LOOPBACK
from dpsd.federated.deployment.clientapp import write_commands
from dpsd.federated.deployment.flower import App, Settings, flower_environment, toml
from dpsd.federated.deployment.processes import Processes, Started, processes

READY_S = 120.0
"""Seconds that a process has to become ready."""
ANSI = re.compile(r"\x1b\[[0-9;]*m")
"""Colours in a log."""


def start_node(
    running: Processes,
    name: str,
    superlink: str,
    authority: Path,
    key: Path,
    settings: Settings,
    port: int,
) -> None:
    """Start a SuperNode and its task runner; `wait_for_node` waits for them.

    Args:
        running: starts both; its folder has the subfolder `commands`.
        name: name of the node's process and of its home in that folder.
        superlink: host:port.
        authority: certificate of the authority that signed the SuperLink's.
        key: the node's private key.
        settings: what the client finds in `context.node_config`.
        port: where the task runner finds the SuperNode, on the loopback.
    """
    secret = secret_file(running.folder, name)
    home = str(running.folder / name)
    config = " ".join(f"{key}={_node_value(key, value)}" for key, value in settings.items())
    running.start(name, [
        "flower-supernode", "--superlink", superlink, "--root-certificates", str(authority),
        "--auth-supernode-private-key", str(key), "--host", LOOPBACK, "--port", str(port),
        "--isolation", "process", "--superexec-auth-secret-file", secret, "--node-config", config,
    ], FLWR_HOME=home)  # fmt: skip
    runner = task_runner(running, port, secret)
    path = os.pathsep.join([str(running.folder / "commands"), running.environment["PATH"]])
    running.start(f"{name}-tasks", [*runner, "--insecure"], FLWR_HOME=home, PATH=path)


def wait_for_node(running: Processes, name: str) -> None:
    """Wait until the SuperLink has let the node in.

    Raises:
        UserError: a process ended, for example after a refusal, or the time is over.
    """
    one = running.named(name)
    wait_until(running, name, lambda: "SuperNode ID:" in one.log.read_text())


def wait_until(running: Processes, what: str, ready: Callable[[], bool]) -> None:
    """Wait until `ready` returns true; the running processes bring that about.

    Raises:
        UserError: a process ended, or the time is over.
    """
    deadline = time.monotonic() + READY_S
    while not ready():
        for one in running.started:
            if one.code is not None:
                raise UserError(last_words(one))
        if time.monotonic() > deadline:
            raise UserError(f"{what}: not ready after {READY_S:.0f} s (logs in {running.folder})")
        time.sleep(0.1)


def last_words(one: Started) -> str:
    """What a process said before it ended, in one line."""
    text = ANSI.sub("", one.log.read_text(errors="replace"))
    if "[code: 2004]" in text:
        return f"{one.name}: the SuperLink refused its key, not registered or in use ({one.log})"
    said = re.search(r"Exit Code: .*?(?=\n\n|\Z)", text, re.DOTALL) or re.search(r".*\S\s*\Z", text)
    words = " ".join(said[0].split()) if said else f"exit code {one.code}"
    return f"{one.name} ended: {words} (log: {one.log})"


def task_runner(running: Processes, port: int, secret: str) -> list[str]:
    """The command of a SuperExec. It starts the processes of the app and ends with dpsd."""
    allowed = running.environment["FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION"] != "1"
    install = ["--allow-runtime-dependency-installation"] if allowed else []
    return ["flower-superexec", "--runtime-api-address", f"{LOOPBACK}:{port}", "--parent-pid",
            str(os.getpid()), "--superexec-auth-secret-file", secret, *install]  # fmt: skip


def secret_file(folder: Path, name: str) -> str:
    """The file of a new secret that a server shares with its task runner."""
    path = folder / f"{name}.secret"
    path.unlink(missing_ok=True)
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(secrets.token_hex(32))
    return str(path)


def free_ports(wanted: int | None, more: int) -> list[int]:
    """The wanted port, or one that the kernel finds, and `more` others. All were free just now.

    Raises:
        UserError: the wanted port is in use, or is no port.
    """
    with contextlib.ExitStack() as held:
        found = []
        for port in (wanted or 0, *(0 for _ in range(more))):
            probe = held.enter_context(socket.socket())
            try:
                probe.bind((LOOPBACK, port))
            except (OSError, OverflowError) as e:
                raise UserError(
                    f"port: {LOOPBACK}:{port} cannot be used ({getattr(e, 'strerror', e)}); "
                    "name another one, or none at all"
                ) from None
            found.append(int(probe.getsockname()[1]))
        return found


def _node_value(key: str, value: str | int | float | bool) -> str:
    if isinstance(value, str) and ("'" in value or "\n" in value):
        raise UserError(f"{key}: {value!r} is not accepted: no quotes and no line breaks")
    return f"'{value}'" if isinstance(value, str) else toml(value)


def run_node(
    superlink: str,
    authority: Path,
    key: Path,
    settings: Settings,
    say: Callable[[str], None] = lambda text: None,
) -> None:
    """Take part in a federation until interrupted.

    Args:
        superlink: host:port.
        authority: certificate of the authority that signed the SuperLink's.
        key: the node's private key, registered with the SuperLink.
        settings: `client` and `config` for the client app (`dpsd.federated.app`).
        say: receives lines for the user.

    Raises:
        UserError: a file is missing, or a process ended.
    """
    for path in (authority, key):
        if not path.is_file():
            raise UserError(f"credentials: there is no file {path}")
    folder = Path(tempfile.mkdtemp(prefix="dpsd-node-"))
    try:
        write_commands(folder / "commands", App().client)
        with processes(folder, flower_environment(folder / "flower")) as running:
            start_node(running, "node", superlink, authority, key, settings, *free_ports(None, 0))
            wait_for_node(running, "node")
            say(f"taking part in the federation at {superlink}")
            while all(one.code is None for one in running.started):
                time.sleep(0.5)
            raise UserError(next(last_words(o) for o in running.started if o.code is not None))
    except BaseException as e:
        if not isinstance(e, UserError):
            shutil.rmtree(folder)  # an error names the log in it, an interrupt names none
        raise


def main(argv: Sequence[str] | None = None) -> int:
    """`python -m dpsd.federated.node HOST:PORT ...`: take part as a client."""
    parser = argparse.ArgumentParser(prog="dpsd.federated.node", description=__doc__)
    parser.add_argument("superlink", metavar="HOST:PORT")
    parser.add_argument("--authority", type=Path, required=True, metavar="PEM",
                        help="certificate that signed the SuperLink's")  # fmt: skip
    parser.add_argument("--key", type=Path, required=True, help="private key, made with the .pub")
    parser.add_argument("--client", type=int, required=True, metavar="I", help="number, from 0")
    parser.add_argument("--config", type=Path, required=True, metavar="YAML",
                        help="this client's own configuration")  # fmt: skip
    args = parser.parse_args(argv)
    settings = {"client": args.client, "config": str(args.config.resolve())}
    try:
        run_node(args.superlink, args.authority.resolve(), args.key.resolve(), settings, say)
    except UserError as e:
        sys.stderr.write(f"dpsd: error: {e}\n")
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
