"""`dpsd federate`: `transcribe()` with an oracle whose `answer()` goes over Flower's grid."""

import importlib.util
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from flwr.clientapp import ClientApp
from flwr.serverapp import Grid

from dpsd.config import Config
from dpsd.console import Say
from dpsd.data.identity import dataset_home, dataset_name
from dpsd.errors import UserError
from dpsd.federated.client import Node, make_client_app, node_number
from dpsd.federated.grid import InProcessGrid
from dpsd.federated.home import federation_folder, folder_uuid
from dpsd.federated.server_oracle import FederatedOracle
from dpsd.generator.synthesizer import Synthesizer
from dpsd.privacy.plan import Plan, make_plan
from dpsd.runs.folder import Run
from dpsd.teachers.folder import TeacherFolder
from dpsd.teachers.teacher import check_root
from dpsd.transcription.entries import admit, enter
from dpsd.transcription.transcribe import OnRound, transcribe


def federate(
    config: Config,
    *,
    out: Path | str | None = None,
    resume: bool = False,
    data_is_public: bool = False,
    progress: OnRound | None = None,
    say: Say = lambda text: None,
    wrap_grid: Callable[[Grid], Grid] = lambda grid: grid,
) -> Run:
    """Transcribe the teachers of many clients into one student, under federated.runtime.

    Args:
        config: with privacy.route federated.
        out: run folder, new; default `runs/<data>-<mechanism>-<time>`.
        resume: resume the stopped run in `out`.
        data_is_public: put figures measured on the data on the card too.
        progress: receives the public figures of each round; only in-process.
        say: receives lines for the user.
        wrap_grid: wraps the server's grid; tests watch and disturb messages there; only
            in-process.

    Returns:
        The finished run.

    Raises:
        UserError: bad input, another runtime, or fewer clients than the quorum; in one line.
    """
    check_route(config)
    if config.federated.runtime == "simulation":
        return _simulate(config, out, resume, data_is_public, say)
    if config.federated.runtime == "deployment":
        from dpsd.federated.deployment.deployed import federate_deployed

        return federate_deployed(
            config, out=out, resume=resume, data_is_public=data_is_public, say=say
        )
    if not resume:
        admit(config, make_plan(config))  # before a client's teacher is trained
    nodes = open_nodes(config, say)
    grid = wrap_grid(InProcessGrid(app_of(nodes), [{"client": i} for i in range(len(nodes))]))
    return serve(grid, config, out=out, resume=resume, data_is_public=data_is_public,
                 progress=progress, say=say)  # fmt: skip


def open_nodes(config: Config, say: Say) -> list[Node]:
    """All nodes of a federation in this process; missing teachers are trained first."""
    f = config.federated
    return [Node(config, i, say) for i in range(f.nodes or f.clients)]


def app_of(nodes: list[Node]) -> ClientApp:
    """A ClientApp for nodes of this process."""
    return make_client_app(lambda context: nodes[node_number(context)])


def serve(
    grid: Grid,
    config: Config,
    *,
    out: Path | str | None = None,
    resume: bool = False,
    data_is_public: bool = False,
    progress: OnRound | None = None,
    say: Say = lambda text: None,
) -> Run:
    """Run the server's side over any grid (in-process, simulation or deployment).

    Arguments, result and errors are those of `federate`.
    """
    check_route(config)

    if not resume:
        admit(config, make_plan(config))
    home = server_home(config)

    def open_oracle(plan: Plan, run: Run, synthesizer: Synthesizer) -> FederatedOracle:
        enter(run, plan, home)
        return FederatedOracle(grid, config, plan, run, synthesizer)

    return transcribe(
        config, out=out, resume=resume, data_is_public=data_is_public, progress=progress, say=say,
        open_oracle=open_oracle, home=home,
    )  # fmt: skip


def server_home(config: Config) -> TeacherFolder:
    """Where the server keeps the federation's ledger; it holds no teacher.

    Where the rows of one data set are dealt to clients, every run is entered in the ledger of that
    data set. There it composes with those of other partitions and of ensembles.

    Raises:
        UserError: `./teachers` of an older default is not adopted.
    """
    check_root(config)
    folder = federation_folder(config)
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)
    facts = {}
    if dataset_name(config) is not None and config.federated.partition != "own":
        found = dataset_home(config, None, "a federation")
        facts["dataset"] = found | {"folder": os.path.join("..", found["folder"])}
    return TeacherFolder(folder, folder_uuid(folder), "federation", facts)


def check_route(config: Config) -> None:
    """Refuse configurations of another route.

    Raises:
        UserError: privacy.route is not federated.
    """
    if config.privacy.route != "federated":
        raise UserError(f"privacy.route: {config.privacy.route}; accepted by federate: federated")


def _simulate(
    config: Config, out: Path | str | None, resume: bool, data_is_public: bool, say: Say
) -> Run:
    """Run in Flower's own simulation, every node in an actor of ray."""
    if importlib.util.find_spec("ray") is None:
        raise UserError(
            "federated.runtime: simulation needs ray; install dpsd[simulation], or set in-process"
        )
    from flwr.serverapp import ServerApp
    from flwr.simulation import run_simulation

    open_nodes(config, say)  # actors share folders: train the teachers before they start
    found: list[Run] = []
    server = ServerApp()

    @server.main()
    def main(grid: Grid, context: Any) -> None:
        found.append(
            serve(grid, config, out=out, resume=resume, data_is_public=data_is_public, say=say)
        )

    client = make_client_app(lambda context: Node(config, node_number(context)))
    run_simulation(
        server, client, num_supernodes=config.federated.nodes or config.federated.clients
    )
    if not found:
        raise UserError("federated.runtime: simulation ended without a run; see Flower's log")
    return found[0]
