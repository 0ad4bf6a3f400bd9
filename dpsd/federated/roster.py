"""Which node hosts which clients. `hello` asks before anything private is touched."""

import time
from collections.abc import Iterable

from flwr.app import ConfigRecord, RecordDict
from flwr.serverapp import Grid

from dpsd.config import Config
from dpsd.errors import UserError
from dpsd.federated import messages
from dpsd.federated.home import hosted
from dpsd.federated.messages import settings
from dpsd.federated.rounds import collect

_POLL = 0.2


class Roster:
    """The nodes that have introduced themselves; one that was away does so again.

    Attributes:
        clients: by node id, the numbers of the clients that it hosts, in client order.
        problems: by node id, why a node did not introduce itself.
    """

    def __init__(self, grid: Grid, config: Config) -> None:
        self._grid, self._config = grid, config
        self.clients: dict[int, list[int]] = {}
        self.problems: dict[int, str] = {}
        self._tried: set[int] = set()
        f = config.federated
        self._groups = {tuple(hosted(config, i)) for i in range(f.nodes or f.clients)}

    def meet(self) -> None:
        """Ask new nodes who they are. While none is known, first wait for all or for the deadline.

        Raises:
            UserError: a node's classes, image shape or settings differ, or two nodes claim one
                client. The message names the client.
        """
        f = self._config.federated
        expected, end = f.nodes or f.clients, time.monotonic() + f.deadline_s
        nodes = list(self._grid.get_node_ids())
        for node in self._tried - set(nodes):
            self.forget(node)
        while not self.clients and len(nodes) < expected and time.monotonic() < end:
            time.sleep(_POLL)
            nodes = list(self._grid.get_node_ids())
        new = [n for n in nodes if n not in self._tried]
        if not new:
            return
        self._tried.update(new)
        content = RecordDict({messages.FACTS: ConfigRecord({"run": ""})})
        met = collect(
            self._grid, dict.fromkeys(new, content), messages.HELLO,
            deadline=f.deadline_s, read=lambda node, c: self._read(node, c),
        )  # fmt: skip
        for node in met.failures:
            if met.failures[node].startswith("silent"):
                self._tried.discard(node)
        for reason in met.failures.values():
            if reason.startswith("client "):
                raise UserError(reason)
        self.problems |= met.failures
        for node, clients in sorted(met.found.items(), key=lambda item: item[1]):
            others = (known for other, known in self.clients.items() if other != node)
            double = set(clients) & {c for known in others for c in known}
            if double:
                raise UserError(f"client {min(double)}: two nodes claim it; accepted: one each")
            self.clients[node] = clients
        self.clients = dict(sorted(self.clients.items(), key=lambda item: item[1]))

    def forget(self, node: int) -> None:
        """Ask a node again who it is: it was gone, or has answered as somebody else would."""
        self._tried.discard(node)

    def name(self, node: int) -> str:
        """A node's name, made of its clients' numbers."""
        clients = self.clients[node]
        return f"client {clients[0]}" + (f"-{clients[-1]}" if len(clients) > 1 else "")

    def count(self, nodes: Iterable[int]) -> int:
        """How many clients these nodes host."""
        return sum(len(self.clients[n]) for n in nodes)

    def missing(self) -> list[int]:
        """Clients that no node hosts."""
        known = {c for clients in self.clients.values() for c in clients}
        return [c for c in range(self._config.federated.clients) if c not in known]

    def _read(self, node: int, content: RecordDict) -> list[int]:
        said, f = messages.facts_of(content), self._config.federated
        facts = self._config.facts
        try:
            clients = [int(c) for c in said["clients"]]
            known = (int(said["classes"]), [int(x) for x in said["shape"]])
        except (KeyError, TypeError, ValueError, OverflowError) as e:
            raise UserError("hello without clients, classes and shape") from e
        if tuple(clients) not in self._groups:  # a client listed twice would vote twice
            what = f"each of clients 0 to {f.clients - 1}" if f.nodes is None else (
                f"the clients of one of {f.nodes} nodes"
            )  # fmt: skip
            raise UserError(f"a node that says it hosts clients {clients[:5]}; accepted: {what}")
        name = f"client {clients[0]}"
        if known != (facts.classes, list(facts.shape)):
            raise UserError(
                f"{name}: data.classes {known[0]} and data.shape {known[1]}; accepted: those of "
                f"the server, {facts.classes} and {list(facts.shape)}"
            )
        if said.get("settings") != settings(self._config):
            raise UserError(
                f"{name}: other privacy, federated or teacher.shards settings than the server's; "
                "accepted: the same, so that each client knows what it agreed to"
            )
        return clients
