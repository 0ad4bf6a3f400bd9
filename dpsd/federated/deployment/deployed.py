"""`dpsd federate --runtime deployment`: the whole federation on this machine, over its loopback."""

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import yaml

from dpsd.config import Config
from dpsd.data.load import load_data
from dpsd.federated.certificates import Credentials, make_credentials
from dpsd.federated.deployment.deploy import deploy
from dpsd.federated.home import client_rows
from dpsd.runs.begin import refuse_existing
from dpsd.runs.folder import Run, default_run_folder, open_run


def federate_deployed(
    config: Config,
    *,
    out: Path | str | None = None,
    resume: bool = False,
    data_is_public: bool = False,
    say: Callable[[str], None] = lambda text: None,
    credentials: Path | None = None,
    port: int | None = None,
) -> Run:
    """Run the server and every node in processes of their own, and return the finished run.

    Each node trains its own teacher and keeps its own ledger. When the run is complete, all logs
    are moved to its `private/deployment`.

    Args:
        config: with privacy.route federated.
        out: run folder, new; default `runs/<data>-<mechanism>-<time>`.
        resume: resume the stopped run in `out`.
        data_is_public: put figures measured on the data on the card too.
        say: receives lines for the user.
        credentials: a folder as `dpsd.federated.certificates` writes it (default: new ones, for
            this run alone).
        port: of the SuperLink (default: one that the kernel finds free).

    Raises:
        UserError: bad input, fewer clients than the quorum, or a process that ended early.
    """
    out = Path(out if out is not None else default_run_folder(config)).resolve()
    if not resume:
        refuse_existing(out)
    nodes = config.federated.nodes or config.federated.clients
    if config.federated.partition != "own":
        client_rows(config, load_data(config.data))  # nodes share one file: make it first
    folder = Path(tempfile.mkdtemp(prefix="dpsd-deployment-"))
    try:
        mine = make_credentials(folder / "credentials", nodes) if credentials is None else None
        written = folder / "config.yaml"
        written.write_text(yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False))
        deploy(
            folder,
            mine or Credentials(Path(credentials or folder).resolve()),
            [{"client": node, "config": str(written)} for node in range(nodes)],
            {"config": str(written), "out": str(out), "resume": resume,
             "data_is_public": data_is_public},
            port=port, say=say,
        )  # fmt: skip
        _keep_logs(folder, out / "private" / "deployment")
    except BaseException as e:
        if not isinstance(e, Exception) or not any(folder.glob("*.log")):
            shutil.rmtree(folder)  # an error names the logs in it, an interrupt names none
        raise
    shutil.rmtree(folder)
    return open_run(out)


def _keep_logs(folder: Path, into: Path) -> None:
    shutil.rmtree(into, ignore_errors=True)
    into.mkdir(mode=0o700)
    for log in sorted(folder.glob("*.log")):
        shutil.move(log, into / log.name)
