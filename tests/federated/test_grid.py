"""The in-process grid, and the private pieces of Flower that it stands on."""

import threading
import time

import pytest
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.clientapp import ClientApp

from dpsd.federated.grid import InProcessGrid


def grid(answer, nodes=3):
    app = ClientApp()

    @app.query("hello")
    def hello(message, context):
        said = answer(context.node_config["client"])
        return Message(RecordDict({"facts": ConfigRecord({"said": said})}), reply_to=message)

    return InProcessGrid(app, [{"client": i} for i in range(nodes)])


def ask(grid):
    nodes = grid.get_node_ids()
    return [Message(RecordDict(), dst_node_id=n, message_type="query.hello") for n in nodes]


def said(replies):
    return [m.content["facts"]["said"] for m in replies]


def test_replies_come_in_client_order_whoever_is_first():
    found = grid(lambda i: (time.sleep(0.1 * (2 - i)), i)[1])
    assert said(found.send_and_receive(ask(found))) == [0, 1, 2]


def test_each_client_has_a_thread_of_its_own():
    together = threading.Barrier(3, timeout=60)  # passed only if all three wait at once
    found = grid(lambda i: (together.wait(), i)[1])
    assert said(found.send_and_receive(ask(found), timeout=5)) == [0, 1, 2]


def test_who_is_late_is_left_out_and_its_reply_given_to_no_other_question(clock):
    awake = threading.Event()

    def late(i):
        if i == 1:
            with clock.away():
                awake.wait(60)
        return i

    found = grid(late)
    assert said(found.send_and_receive(ask(found), timeout=0.1)) == [0, 2]
    awake.set()
    assert said(found.send_and_receive(ask(found), timeout=5)) == [0, 1, 2]


def test_an_exception_becomes_an_error_without_its_text():
    def broken(i):
        raise ValueError("private words")

    found = grid(broken, nodes=1)
    (reply,) = found.send_and_receive(ask(found))
    assert reply.has_error() and reply.error.reason == "ValueError"


def test_the_private_pieces_of_flower_are_where_the_grid_needs_them():
    """If this fails, Flower has moved them: see `dpsd.federated.grid`."""
    from flwr.common.constant import ErrorCode
    from flwr.supercore.run import Run
    from flwr.supercore.task_identity import TaskIdentity

    from dpsd.federated import grid as module

    assert ErrorCode.CLIENT_APP_RAISED_EXCEPTION == module._RAISED
    assert Run.create_empty(1).run_id == 1
    TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 7, 8, 9
    message = Message(RecordDict(), dst_node_id=5, message_type="query.hello")
    meta = message.metadata
    assert (meta.src_task_id, meta.run_id, meta.src_node_id) == (7, 8, 9)
    meta.__dict__["_message_id"] = "an id"
    assert meta.message_id == "an id"
    reply = Message(RecordDict(), reply_to=message)
    assert reply.metadata.reply_to_message_id == "an id" and reply.metadata.src_node_id == 5
    with pytest.raises(ValueError, match="message type"):
        Message(RecordDict(), dst_node_id=5, message_type="dpsd.hello")
