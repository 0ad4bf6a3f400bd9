"""FedAvg by Flower's own strategy, on dpsd's in-process grid: the baseline of FedDPSD."""

import math

import torch
import torch.nn.functional as F
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp.strategy import FedAvg
from torch import Tensor

from dpsd.config import Config
from dpsd.data.load import PrivateData
from dpsd.device import pick_device, pick_dtype
from dpsd.federated.client import node_number
from dpsd.federated.grid import InProcessGrid
from dpsd.models.augment import augment
from dpsd.models.networks import as_input, build_model

BATCH, LR, MOMENTUM = 64, 0.05, 0.9
SMALL, SMALL_BATCH, SMALL_PASSES = 2_000, 10, 5
"""Where clients have fewer rows than SMALL on average, a batch is smaller and passes are more."""
MOST = 100
"""Clients of a round, drawn by the strategy."""


def network(config: Config) -> torch.nn.Module:
    """The student's architecture with GroupNorm: averaged batch statistics fit no client."""
    facts = config.facts
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        return build_model(config.student.model, facts.shape, facts.classes, norm="group")


def fedavg(
    config: Config, data: PrivateData, rows: list[Tensor], rounds: int, epochs: float
) -> tuple[torch.nn.Module, int]:
    """Weighted averaging of locally trained weights (McMahan et al. 2017).

    Args:
        config: student.model, teacher.augment and seed are read.
        data: training rows.
        rows: of each client.
        rounds: of averaging.
        epochs: local passes in a round.

    Returns:
        The averaged model; the bytes of its weights, which a client gets and sends in a round.
    """
    app = ClientApp()
    small = sum(map(len, rows)) < SMALL * len(rows)
    batch = SMALL_BATCH if small else BATCH
    rate = LR * batch / BATCH
    passes = max(epochs, SMALL_PASSES) if small and epochs >= 1 else epochs

    @app.train()
    def train(message: Message, context: object) -> Message:
        mine, records = rows[node_number(context)], message.content
        model, number = network(config), int(records["config"]["server-round"])
        model.load_state_dict(records["arrays"].to_torch_state_dict())
        rng = torch.Generator().manual_seed(1000 * number + node_number(context))
        fit(config, model, data.train.images[mine], data.train.labels[mine], passes, batch,
            rate * (1 + math.cos(math.pi * (number - 1) / rounds)) / 2, rng)  # fmt: skip
        content = RecordDict({"arrays": ArrayRecord(model.state_dict()),
                              "metrics": MetricRecord({"num-examples": len(mine)})})  # fmt: skip
        return Message(content, reply_to=message)

    grid = InProcessGrid(app, [{"client": i} for i in range(len(rows))])
    weights = ArrayRecord(network(config).state_dict())
    strategy = FedAvg(fraction_train=min(1.0, MOST / len(rows)), fraction_evaluate=0.0)
    result = strategy.start(grid, weights, num_rounds=rounds, train_config=ConfigRecord())
    model = network(config)
    model.load_state_dict(result.arrays.to_torch_state_dict())
    return model.eval(), weights.count_bytes()


def fit(
    config: Config, model: torch.nn.Module, images: Tensor, labels: Tensor, passes: float,
    batch: int, lr: float, rng: torch.Generator,
) -> None:  # fmt: skip
    """Train by SGD with momentum, at one learning rate."""
    device = pick_device(config.device)
    dtype = pick_dtype(config.precision, device)
    model.to(device).to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=MOMENTUM, weight_decay=1e-4)
    size = min(batch, len(images))
    for _ in range(max(1, round(passes * len(images) / size))):
        picked = torch.randint(len(images), (size,), generator=rng)
        shifted = augment(images[picked], config.teacher.augment)
        with torch.autocast(device.type, dtype=dtype, enabled=dtype != torch.float32):
            logits = model(as_input(shifted.to(device)))
        loss = F.cross_entropy(logits.float(), labels[picked].to(device))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.cpu()
