"""The Flower app: `client_app` answers at home, `server_app` runs the loop.

`context.run_config` (of the run; `flwr run --run-config`), read by both:
    config: path of a dpsd YAML file with privacy.route federated.
    set: overrides of it, as on the command line, separated by blanks; may be missing.
    out: the server's run folder; may be missing (then `runs/...`).
    resume: true to go on with the stopped run in `out`.
    data_is_public: true to put figures measured on the data on the card too.
`context.node_config` (of a node; `flower-supernode --node-config`), read by the client:
    client: the client's number, from 0. Flower's simulation gives `partition-id` instead.
    config: the client's own YAML file, in place of the run's. A client that does not trust the
        server sets it: its budget, data and teacher are then its own words.
    set: overrides of it; the run's do not count then.

Each node trains its client's teacher on the first message if it is not there yet.
"""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from flwr.app import Context, Message
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

from dpsd.config import Config, load_config
from dpsd.console import Progress, say
from dpsd.device import use_threads
from dpsd.errors import UserError
from dpsd.federated import messages
from dpsd.federated.client import Node

_LOG = logging.getLogger("dpsd.federated")


def node_number(context: Context) -> int:
    """The number of a node, from 0.

    Raises:
        UserError: it is not in the node config.
    """
    found = context.node_config.get("client", context.node_config.get("partition-id"))
    if found is None:
        raise UserError("node config client: missing; accepted: the client's number, from 0")
    return int(found)


def config_of(context: Context) -> Config:
    """The configuration that a node goes by: its own, else the run's.

    Raises:
        UserError: no readable YAML file is named.
    """
    own = context.node_config if "config" in context.node_config else context.run_config
    if "config" not in own:
        raise UserError("run config config: missing; accepted: the path of a dpsd YAML file")
    return load_config(Path(str(own["config"])), str(own.get("set", "")).split())


def make_client_app(open_node: Callable[[Context], Node]) -> ClientApp:
    """A ClientApp whose nodes are opened by a function, once each.

    Whatever goes wrong at home, all that the server learns is one of `messages.REFUSALS`.
    """
    app, nodes = ClientApp(), dict[int, Node]()

    def handled(what: Callable[[Node, Message], Any]) -> Callable[[Message, Context], Message]:
        def handle(message: Message, context: Context) -> Message:
            number = node_number(context)
            try:
                if number not in nodes:
                    nodes[number] = open_node(context)
                content = what(nodes[number], message)
            except Exception:
                _LOG.exception("client on node %d", number)
                content = messages.refusal([number], "failed")
            return Message(content, reply_to=message)

        return handle

    app.query("hello")(handled(lambda node, message: node.hello(message.content)))
    app.query("answer")(handled(lambda node, message: node.answer(message.content)))
    app.query("labels")(handled(lambda node, message: node.labels(message.content)))
    return app


client_app = make_client_app(lambda context: Node(config_of(context), node_number(context)))
server_app = ServerApp()


@server_app.main()
def main(grid: Grid, context: Context) -> None:
    """Run, or go on with, a federated transcription over the grid."""
    from dpsd.federated.federate import serve

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
