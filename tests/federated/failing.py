"""A Flower app whose server asks its client once, and fails with what came back."""

import time

from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

client_app = ClientApp()
server_app = ServerApp()


@client_app.query()
def answer(message: Message, context: Context) -> Message:
    return Message(RecordDict(), reply_to=message)


@server_app.main()
def main(grid: Grid, context: Context) -> None:
    while not (nodes := list(grid.get_node_ids())):
        time.sleep(0.1)
    (reply,) = grid.send_and_receive([Message(RecordDict(), nodes[0], "query")])
    raise ValueError(f"told to fail after {reply.error.reason if reply.has_error() else 'a reply'}")
