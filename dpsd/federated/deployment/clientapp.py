"""A client's replacement for `flwr-clientapp`: it runs no code of the server's.

Flower's clients run whatever app the SuperLink sends, and an app may be any code. The server could
then skip the noise and the budget at the client. Here an app is one configuration file that names
dpsd's own client. A task of another kind, or an app with anything else in it, is refused.
"""

import importlib
import io
import shlex
import sys
import tomllib
import zipfile
from pathlib import Path
from typing import Any

from dpsd.errors import UserError

_FILES = {"pyproject.toml", ".info/CONTENT"}


def refuse_code(fab: bytes, client: str) -> None:
    """Refuse an app that would bring code to the client.

    Args:
        fab: the app, as Flower packs it.
        client: `module:attribute` of the only client app that may run, from this installation.

    Raises:
        UserError: the app has files of its own, or names another client.
    """
    with zipfile.ZipFile(io.BytesIO(fab)) as packed:
        files = set(packed.namelist())
        config = tomllib.loads(packed.read("pyproject.toml").decode()) if files == _FILES else {}
    if not config:
        brought = ", ".join(sorted(files - _FILES)[:3])
        raise UserError(f"app: it brings {brought or 'no pyproject.toml'}; accepted: no files")
    named = config["tool"]["flwr"]["app"]["components"].get("clientapp")
    if named != client:
        raise UserError(f"app: its client is {named}; accepted: {client}")


def write_commands(folder: Path, client: str) -> None:
    """Write the commands that a client's task runner finds first: one checks, the others refuse.

    Args:
        folder: where the commands go; it is put at the front of PATH.
        client: as in `refuse_code`.
    """
    from flwr.supercore.constant import TASK_TYPE_TO_COMMAND

    folder.mkdir(parents=True, exist_ok=True)
    words = [sys.executable, "-m", "dpsd.federated.deployment.clientapp", client]
    for command in TASK_TYPE_TO_COMMAND.values():
        run = f'exec {shlex.join(words)} "$@"' if command == "flwr-clientapp" else "exit 1"
        (folder / command).write_text(f"#!/bin/sh\n{run}\n")
        (folder / command).chmod(0o700)


def main(client: str) -> None:
    """Run Flower's own `flwr-clientapp`, but check the app before it is unpacked."""
    flower: Any = importlib.import_module("flwr.supernode.runtime.run_clientapp")
    cli: Any = importlib.import_module("flwr.supernode.cli.flwr_clientapp")
    install = flower.install_from_fab

    def checked(fab: bytes, **named: Any) -> Any:
        refuse_code(fab, client)
        return install(fab, **named)

    flower.install_from_fab = checked
    cli.flwr_clientapp()


if __name__ == "__main__":
    main(sys.argv.pop(1))
