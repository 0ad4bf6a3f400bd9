"""The Flower app: `client_app` answers at the client, `server_app` runs the loop.

`context.run_config` (set by `flwr run --run-config`), read by both:
    config: path of a dpsd YAML file with privacy.route federated.
    set: overrides of that file, as on the command line, separated by blanks; may be missing.
    out: the server's run folder; may be missing (then `runs/...`).
    resume: true to resume the stopped run in `out`.
    data_is_public: true to put figures measured on the data on the card too.
`context.node_config` (set by `flower-supernode --node-config`), read by the client:
    client: the client's number, from 0. Flower's simulation gives `partition-id` instead.
    config: the client's own YAML file, in place of the run's. A client that does not trust the
        server sets it. The client itself then decides its budget, data and teacher.
    set: overrides of the client's own file; the run's overrides do not count then.

Each node trains its client's teacher on the first message if there is none yet.
"""

from pathlib import Path

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from dpsd.config import Config, load_config
from dpsd.console import Progress, say
from dpsd.device import use_threads
from dpsd.errors import UserError
from dpsd.federated.client import Node, make_client_app, node_number
from dpsd.federated.federate import serve


def config_of(context: Context) -> Config:
    """A node's own configuration if it names one, else the run's.

    Raises:
        UserError: no readable YAML file is named.
    """
    own = context.node_config if "config" in context.node_config else context.run_config
    if "config" not in own:
        raise UserError("run config config: missing; accepted: the path of a dpsd YAML file")
    return load_config(Path(str(own["config"])), str(own.get("set", "")).split())


client_app = make_client_app(lambda context: Node(config_of(context), node_number(context)))
server_app = ServerApp()


@server_app.main()
def main(grid: Grid, context: Context) -> None:
    """Run or resume a federated transcription over the grid."""
    given, config = context.run_config, config_of(context)
    say(use_threads(config.threads))
    out = given.get("out")
    with Progress(config.loop.rounds, config.answers()) as progress:
        serve(
            grid,
            config,
            out=None if not out else Path(str(out)),
            resume=bool(given.get("resume", False)),
            data_is_public=bool(given.get("data_is_public", False)),
            progress=progress,
            say=say,
        )
