"""A Flower app for tests of the deployment: clients double a number, or the server fails."""

import json
import time
from pathlib import Path

from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

from dpsd.progress import say

client_app = ClientApp()
server_app = ServerApp()


@client_app.query()
def double(message: Message, context: Context) -> Message:
    number = message.content["question"]["number"]
    answer = {"client": context.node_config["client"], "double": 2 * number}
    return Message(RecordDict({"answer": ConfigRecord(answer)}), reply_to=message)


@server_app.main()
def main(grid: Grid, context: Context) -> None:
    config = context.run_config
    while len(nodes := list(grid.get_node_ids())) < config["clients"]:
        time.sleep(0.1)
    question = RecordDict({"question": ConfigRecord({"number": 21})})
    replies = grid.send_and_receive([Message(question, node, "query") for node in nodes])
    answers = sorted((dict(m.content["answer"]) for m in replies), key=lambda a: a["client"])
    say(f"{len(answers)} clients answered")
    Path(config["out"]).write_text(json.dumps(answers))
    if config["fail"]:
        raise ValueError("the server was told to fail")
