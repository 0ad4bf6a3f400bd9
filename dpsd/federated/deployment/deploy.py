"""FedDPSD on a real SuperLink and SuperNodes: separate processes, TLS, node authentication.

Who may do what. The server shows a certificate that the clients check, and takes part only with
registered node keys. Each SuperLink and SuperNode has its own task runner (SuperExec), which proves
that it knows a secret. In Flower's default isolation anyone who reaches the port could take a task.
Flower's Control API (submit a run, register a key) knows no accounts here. The port must therefore
be open to nobody but the clients; dpsd binds it to the loopback.

The app that travels has no code in it. It names `dpsd.federated.app`, and every client runs that
from its own installation (`dpsd.federated.deployment.clientapp` refuses any other).
"""

import json
import re
import ssl
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dpsd.errors import UserError
from dpsd.federated.certificates import LOOPBACK, Credentials, check_credentials
from dpsd.federated.deployment.clientapp import write_commands
from dpsd.federated.deployment.flower import (
    CONNECTION,
    App,
    Settings,
    flower_environment,
    write_app,
    write_connection,
)
from dpsd.federated.deployment.processes import Processes, processes
from dpsd.federated.node import (
    ANSI,
    READY_S,
    free_ports,
    last_words,
    secret_file,
    start_node,
    task_runner,
    wait_for_node,
    wait_until,
)


@dataclass(frozen=True)
class Outcome:
    """A run that was completed.

    Attributes:
        codes: exit code of each process by name; negative for a signal.
        bytes_in: bytes that the SuperLink received over the run.
        bytes_out: bytes that it sent.
    """

    codes: dict[str, int | None]
    bytes_in: int
    bytes_out: int


def deploy(
    folder: Path,
    credentials: Credentials,
    nodes: Sequence[Settings],
    run_config: Settings,
    *,
    app: App | None = None,
    port: int | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> Outcome:
    """Start a SuperLink and SuperNodes on the loopback, run the app once, and stop them all.

    Args:
        folder: for logs, secrets and Flower's home; a new one gets mode 0700.
        credentials: node i uses `node_key(i)`; every public key in the folder is registered.
        nodes: `context.node_config` of each client.
        run_config: `context.run_config` of the server and all clients.
        app: what to run (default: FedDPSD).
        port: of the SuperLink (default: one that the kernel finds free).
        say: receives the server's log line by line.

    Raises:
        UserError: credentials, port or a node key are not accepted, or the run failed.
    """
    check_credentials(credentials, len(nodes))
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    folder = folder.resolve()
    app = app or App()
    ports = free_ports(port, len(nodes))
    environment = flower_environment(folder / "flower")
    write_app(folder / "app", app, run_config)
    write_connection(folder / "flower", credentials, ports[0])
    write_commands(folder / "commands", app.client)
    with processes(folder, environment) as running:
        _start_link(running, credentials, ports[0])
        for key in credentials.registered():
            _flwr(running, "supernode", "register", str(key), CONNECTION)
        for node, settings in enumerate(nodes):
            start_node(
                running, f"node-{node}", f"{LOOPBACK}:{ports[0]}", credentials.authority,
                credentials.node_key(node), settings, ports[1 + node],
            )  # fmt: skip
        for node in range(len(nodes)):
            wait_for_node(running, f"node-{node}")
        say(f"SuperLink on {LOOPBACK}:{ports[0]}, {len(nodes)} SuperNodes")
        found = _run(running, folder / "app", say)
    traffic = found["network-traffic"]
    if found["status"] != "finished:completed":
        why = found["status-details"].removeprefix("ServerApp failed with exception: ")
        raise UserError(f"{why} ({found['status']}, logs in {folder})")
    say("stopped by process id: " + ", ".join(f"{o.name} {o.popen.pid}" for o in running.started))
    return Outcome(running.codes(), traffic["inbound-bytes"], traffic["outbound-bytes"])


def _start_link(running: Processes, credentials: Credentials, port: int) -> None:
    secret = secret_file(running.folder, "superlink")
    running.start("superlink", [
        "flower-superlink", "--host", LOOPBACK, "--port", str(port),
        "--ssl-ca-certfile", str(credentials.authority), "--ssl-certfile",
        str(credentials.certificate), "--ssl-keyfile", str(credentials.key),
        "--enable-supernode-auth", "--isolation", "process",
        "--superexec-auth-secret-file", secret, "--disable-runtime-dependency-installation",
    ])  # fmt: skip
    trust = ssl.create_default_context(cafile=str(credentials.authority))
    wait_until(
        running, "the SuperLink", lambda: _healthy(f"https://{LOOPBACK}:{port}/health", trust)
    )
    running.start("superlink-tasks", [
        *task_runner(running, port, secret),
        "--root-certificates", str(credentials.authority),
    ])  # fmt: skip


def _healthy(url: str, trust: ssl.SSLContext) -> bool:
    """Whether the SuperLink answers; the request bypasses any proxy."""
    opener = urllib.request.build_opener(
        urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=trust)
    )
    try:
        with opener.open(url, timeout=2):
            return True
    except (urllib.error.URLError, TimeoutError):
        return False


def _flwr(running: Processes, *words: str) -> dict[str, Any]:
    """Run one of Flower's own commands and read its JSON."""
    try:
        done = subprocess.run(
            ["flwr", *words, "--format", "json"], env=dict(running.environment),
            capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=READY_S,
        )  # fmt: skip
        found: dict[str, Any] = json.loads(done.stdout)
    except (subprocess.TimeoutExpired, ValueError) as e:
        raise UserError(f"flwr {' '.join(words[:2])}: {e} (logs in {running.folder})") from None
    if not found.get("success"):
        raise UserError(f"flwr {' '.join(words[:2])}: {' '.join(found['error-message'].split())}")
    return found


def _run(running: Processes, app: Path, say: Callable[[str], None]) -> dict[str, Any]:
    """Run the app to its end and return Flower's facts on the run.

    The app handles a node that ends meanwhile: it has a quorum and a deadline.
    """
    run = _flwr(running, "run", str(app), CONNECTION)["run-id"]
    needed = [running.named("superlink"), running.named("superlink-tasks")]
    nodes = [one for one in running.started if one not in needed]
    stream = running.start("run", ["flwr", "log", run, CONNECTION, "--stream"])
    told = 0
    while True:
        ended = stream.code is not None
        told = _tell(stream.log, told, say)
        if ended:
            found: dict[str, Any] = _flwr(running, "list", "--run-id", run, CONNECTION)["runs"][0]
            if found["status"].startswith("finished"):
                return found
        for one in [one for one in (*needed, *nodes) if one.code is not None]:
            if one in needed:
                raise UserError(last_words(one))
            nodes.remove(one)
            say(last_words(one))
        time.sleep(0.2)


def _tell(log: Path, told: int, say: Callable[[str], None]) -> int:
    """Pass on the app's lines since byte `told`, without Flower's own; return the new `told`."""
    with log.open("rb") as file:
        file.seek(told)
        whole = file.read().rpartition(b"\n")
    for line in whole[0].decode(errors="replace").splitlines():
        plain = ANSI.sub("", line)
        if not re.match(
            r"(DEBUG|INFO|WARNING|ERROR) *:|Using SuperLink:|Successfully installed", plain
        ):
            say(plain)
    return told + len(whole[0]) + len(whole[1])
