"""Flower's grid in one process: no ray, no sockets; a thread for each message, replies by node.

It uses the public `flwr.serverapp.Grid` and one private piece of Flower, `TaskIdentity`. `Message`
takes the sender of a new message from it. A test fails loudly when that has moved.
"""

import threading
import time
from collections.abc import Iterable
from uuid import uuid4

from flwr.app import Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

_SERVER, _RUN, _TASK = 1, 1, 1
_FIRST_NODE = 100
_RAISED = 2  # flwr.common.constant.ErrorCode.CLIENT_APP_RAISED_EXCEPTION


class InProcessGrid(Grid):
    """Runs one ClientApp for all nodes, each message in a thread of its own.

    Args:
        app: handles every message.
        nodes: the node configs; node i has the id 100 + i.
        run_config: what all nodes see.
    """

    def __init__(
        self,
        app: ClientApp,
        nodes: list[dict[str, bool | float | int | str]],
        run_config: dict[str, bool | float | int | str] | None = None,
    ) -> None:
        TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = _TASK, _RUN, _SERVER
        self._app = app
        self._contexts = {
            _FIRST_NODE + i: Context(
                run_id=_RUN, node_id=_FIRST_NODE + i, node_config=dict(node), state=RecordDict(),
                run_config=dict(run_config or {}),
            )
            for i, node in enumerate(nodes)
        }  # fmt: skip
        self._busy = {node: threading.Lock() for node in self._contexts}
        self._replies: dict[str, list[Message]] = {}
        self._arrived = threading.Condition()

    def set_run(self, run: Run) -> None:
        """Do nothing: there is only one run."""

    @property
    def run(self) -> Run:
        """An empty record of the one run."""
        return Run.create_empty(_RUN)

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str,
        ttl: float | None = None,
    ) -> Message:  # fmt: skip
        """A message from the server."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> Iterable[int]:
        """The ids of all nodes, in order."""
        return list(self._contexts)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Start a thread for each message and return the messages' ids."""
        ids = []
        for message in messages:
            message.metadata.__dict__["_message_id"] = str(uuid4())
            ids.append(message.metadata.message_id)
            threading.Thread(target=self._handle, args=(message,), daemon=True).start()
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """The replies to these messages so far, ordered by node. Each is given once."""
        with self._arrived:
            found = [m for i in message_ids for m in self._replies.pop(i, [])]
        return sorted(found, key=lambda m: m.metadata.src_node_id)

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Push the messages, wait until all have a reply or time is over, and pull the replies."""
        ids = list(self.push_messages(messages))
        end = None if timeout is None else time.monotonic() + timeout
        with self._arrived:
            while not all(i in self._replies for i in ids):
                left = None if end is None else end - time.monotonic()
                if left is not None and left <= 0:
                    break
                self._arrived.wait(left)
        return self.pull_messages(ids)

    def _handle(self, message: Message) -> None:
        node = message.metadata.dst_node_id
        with self._busy[node]:  # a node handles one message at a time, even when it is late
            try:
                answer = self._app(message, self._contexts[node])
            except Exception as e:
                answer = Message(Error(_RAISED, type(e).__name__), reply_to=message)
        with self._arrived:
            self._replies.setdefault(message.metadata.message_id, []).append(answer)
            self._arrived.notify_all()
