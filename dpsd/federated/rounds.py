"""One round over the grid: who answered, who did not and why. Rules use public events alone."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid

from dpsd.errors import UserError
from dpsd.federated import messages

T = TypeVar("T")
_FIRST_WAIT, _LONGEST_WAIT = 0.005, 0.5
_DIED, _WORDS = "died", 300  # characters of a failure that are kept


@dataclass
class Collected(Generic[T]):
    """What came back for one kind of message.

    Attributes:
        found: by node, what `read` returned for a good reply.
        failures: by node, why there is no good reply.
        twice: nodes whose second reply was dropped.
        up: by node, bytes of the reply.
        seconds: by node, seconds until the reply.
    """

    found: dict[int, T] = field(default_factory=dict)
    failures: dict[int, str] = field(default_factory=dict)
    twice: list[int] = field(default_factory=list)
    up: dict[int, int] = field(default_factory=dict)
    seconds: dict[int, float] = field(default_factory=dict)


def collect(
    grid: Grid,
    contents: Mapping[int, RecordDict],
    kind: str,
    *,
    deadline: float,
    read: Callable[[int, RecordDict], T],
) -> Collected[T]:
    """Send one message to each node and read the replies until all are there or time is over.

    Args:
        grid: Flower's.
        contents: by node id, the message's content.
        kind: the message type.
        deadline: seconds to wait.
        read: takes node and reply, returns what is kept. Its UserError rejects the reply.
    """
    out: Collected[T] = Collected()
    sent = [
        Message(content, dst_node_id=node, message_type=kind, ttl=deadline + 60)
        for node, content in contents.items()
    ]
    start = time.monotonic()
    waiting = set(grid.push_messages(sent))
    wait = _FIRST_WAIT
    while waiting:
        for message in grid.pull_messages(list(waiting)):
            waiting.discard(message.metadata.reply_to_message_id)
            _take(out, contents, kind, message, read, time.monotonic() - start)
        left = deadline - (time.monotonic() - start)
        if left <= 0:
            break
        if waiting:
            time.sleep(min(wait, left))
            wait = min(1.5 * wait, _LONGEST_WAIT)
    for node in contents:
        if node not in out.found:
            out.failures.setdefault(node, f"silent for {deadline:g} s")
    return out


def _take(
    out: Collected[T],
    contents: Mapping[int, RecordDict],
    kind: str,
    message: Message,
    read: Callable[[int, RecordDict], T],
    seconds: float,
) -> None:
    node = message.metadata.src_node_id
    if node not in contents:
        return
    if node in out.seconds:
        out.twice.append(node)
        return
    out.seconds[node] = seconds
    if message.has_error():
        out.failures[node] = _DIED
        return
    content = message.content
    try:
        out.up[node] = messages.size_of(content)
        messages.check_fields(content, kind, "up")
        refused = messages.facts_of(content).get("refused")
        if refused is not None:
            word = refused if refused in messages.REFUSALS else "without a reason"
            raise UserError(f"refused: {word}")
        out.found[node] = read(node, content)
    except UserError as e:
        out.failures[node] = one_line(str(e))
    except Exception as e:  # a client may send a reply made to stop the server
        out.failures[node] = f"malformed ({type(e).__name__})"


def one_line(text: str) -> str:
    """The text, printable and short. It goes into statements, and a client chose part of it."""
    return "".join(c if c.isprintable() else " " for c in text)[:_WORDS]
