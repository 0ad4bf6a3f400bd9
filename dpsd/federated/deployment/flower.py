"""The environment and configuration of Flower's processes, and the app that they run."""

import json
import os
import sysconfig
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from dpsd.federated import OFF
from dpsd.federated.certificates import LOOPBACK, Credentials

Settings = Mapping[str, str | int | float | bool]

CONNECTION = "dpsd"
"""Name of the SuperLink in Flower's configuration."""


@dataclass(frozen=True)
class App:
    """Which Flower app runs: `module:attribute` twice, importable at every node."""

    server: str = "dpsd.federated.app:server_app"
    client: str = "dpsd.federated.app:client_app"


def flower_environment(home: Path) -> dict[str, str]:
    """The environment of Flower's processes: `home` instead of ~/.flwr, and nothing calls home.

    Variables that the user set are kept, so the user can turn on each switch in `OFF`.
    """
    environment = OFF | os.environ
    scripts = sysconfig.get_path("scripts")
    environment["PATH"] = os.pathsep.join([scripts, environment.get("PATH", os.defpath)])
    environment["FLWR_HOME"] = str(home)
    for name in ("NO_PROXY", "no_proxy"):
        environment[name] = ",".join(filter(None, [environment.get(name), LOOPBACK]))
    return environment


def write_app(folder: Path, app: App, run_config: Settings) -> None:
    """Write a Flower app of one file and no code, with `run_config` as its configuration."""
    folder.mkdir(exist_ok=True)
    lines = [
        "[project]",
        'name = "dpsd"',
        'version = "0.1.0"',
        'description = "FedDPSD"',
        'license = "Apache-2.0"',
        "[tool.flwr.app]",
        'publisher = "dpsd"',
        "[tool.flwr.app.components]",
        f"serverapp = {toml(app.server)}",
        f"clientapp = {toml(app.client)}",
        "[tool.flwr.app.config]",
        *(f"{toml(key)} = {toml(value)}" for key, value in run_config.items()),
    ]
    (folder / "pyproject.toml").write_text("\n".join(lines) + "\n")


def write_connection(home: Path, credentials: Credentials, port: int) -> None:
    """Write for Flower's commands where the SuperLink is and which authority to trust."""
    home.mkdir(exist_ok=True, mode=0o700)
    lines = [
        "[superlink]",
        f"default = {toml(CONNECTION)}",
        f"[superlink.{CONNECTION}]",
        f"address = {toml(f'{LOOPBACK}:{port}')}",
        f"root-certificates = {toml(str(credentials.authority.resolve()))}",
    ]
    (home / "config.toml").write_text("\n".join(lines) + "\n")


def toml(value: str | int | float | bool) -> str:
    """A TOML value."""
    return json.dumps(value, ensure_ascii=False)  # JSON's scalars but null are TOML's
