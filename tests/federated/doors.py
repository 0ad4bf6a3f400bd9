"""A federation of stub clients behind a real oracle, grid, client app and ledgers: no training."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from flwr.serverapp import Grid
from torch import Tensor

from dpsd.config import Config, parse_config
from dpsd.federated.client import Node
from dpsd.federated.federate import app_of
from dpsd.federated.grid import InProcessGrid
from dpsd.federated.home import Home, chosen
from dpsd.federated.server_oracle import FederatedOracle
from dpsd.privacy.ledger import Ledger
from dpsd.privacy.plan import make_plan
from dpsd.runs.begin import create_run
from dpsd.runs.folder import Run

CLIENTS, QUERIES, ROUNDS = 3, 40, 2


class Relay(Grid):
    """Passes everything on; tests override `pull_messages`, and read `sent` and `received`."""

    def __init__(self, grid: Grid) -> None:
        self.grid, self.sent, self.received = grid, [], []

    def set_run(self, run):
        self.grid.set_run(run)

    @property
    def run(self):
        return self.grid.run

    def create_message(self, *args, **kwargs):
        return self.grid.create_message(*args, **kwargs)

    def get_node_ids(self):
        return self.grid.get_node_ids()

    def push_messages(self, messages):
        messages = list(messages)
        self.sent += messages
        return self.grid.push_messages(messages)

    def pull_messages(self, message_ids):
        found = list(self.grid.pull_messages(message_ids))
        self.received += found
        return found

    def send_and_receive(self, messages, *, timeout=None):
        return self.grid.send_and_receive(messages, timeout=timeout)


def config(**privacy) -> Config:
    federated = {"clients": CLIENTS, "deadline_s": 5.0} | privacy.pop("federated", {})
    teacher = privacy.pop("teacher", {})
    return parse_config(
        {
            "device": "cpu",
            "data": {"name": "none", "shape": [1, 8, 8], "classes": 4},
            "teacher": teacher,
            "generator": privacy.pop("generator", {}),
            "loop": {"rounds": ROUNDS},
            "privacy": {
                "route": "federated",
                "unit": "answer",
                "epsilon": 8.0,
                "answers": ROUNDS * QUERIES,
                "insecure_seeded_noise": True,
            }
            | privacy,
            "federated": federated,
        }
    )


def logits(images: Tensor) -> Tensor:
    """A stub teacher: the brightest quarter of the image is the class."""
    quarters = images.float().unflatten(2, (4, 2)).mean((1, 3, 4))
    return quarters / 8


def votes(images: Tensor) -> Tensor:
    """As `logits`, of twenty teachers that agree."""
    return 20 * torch.nn.functional.one_hot(logits(images).argmax(1), 4)


def homes(config: Config, folder: Path) -> list[Home]:
    found = []
    for i in range(config.federated.clients):
        own = folder / "clients" / str(i)
        own.mkdir(parents=True, exist_ok=True)
        labels = torch.tensor([10, 20, 30, 40])
        found.append(Home([i], own, logits, own, f"teacher-{i}", labels))
    return found


def stub_run(config: Config, folder: Path) -> Run:
    if (folder / "run").exists():
        return Run(folder / "run")
    ledger = folder / "server"
    return create_run(folder / "run", config, "federation", ledger, data_is_public=False)


def door(
    config: Config,
    folder: Path,
    *,
    teacher: Callable[[Tensor], Tensor] = logits,
    teachers: dict[int, Callable[[Tensor], Tensor]] | None = None,
    wrap: Callable[[Grid], Grid] = lambda grid: grid,
) -> FederatedOracle:
    """The oracle; what it leaves behind lies in `folder`, for a second one to go on with."""
    if config.privacy.unit == "client" and teacher is logits:
        teacher = chosen(logits)
    own = {i: (teachers or {}).get(i, teacher) for i in range(config.federated.clients)}
    nodes = [
        Node(config, i, home=replace(home, teacher=own[i]))
        for i, home in enumerate(homes(config, folder))
    ]
    grid = wrap(InProcessGrid(app_of(nodes), [{"client": i} for i in range(len(nodes))]))
    return FederatedOracle(grid, config, make_plan(config), stub_run(config, folder), None)


def charged(folder: Path, client: int) -> int:
    """Answers in a client's own ledger."""
    ledger = Ledger(folder / "clients" / str(client), f"teacher-{client}")
    return sum(r.answers for r in ledger.runs())


def images(n: int = QUERIES, seed: int = 0) -> Tensor:
    rng = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (n, 1, 8, 8), dtype=torch.uint8, generator=rng)


def uniform(images: Tensor) -> Tensor:
    return torch.full((len(images), 4), 0.25)
