"""One training loop for students under a loss of their own, and what its recipes accept."""

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from dpsd.errors import UserError

_BATCH = 64
_MOST = 1_000_000
Accepted = tuple[bool, str]
"""Whether a value is accepted, and which values are, in words."""


def whole(value: float, least: int = 1) -> Accepted:
    """Whole numbers from `least` to a million."""
    fits = isinstance(value, int) and least <= value <= _MOST
    return fits, f"whole numbers from {least} to {_MOST:,}"


def positive(value: float, most: float = math.inf) -> Accepted:
    """Finite numbers above 0, at most `most`."""
    text = "finite, above 0" if most == math.inf else f"above 0, at most {most:g}"
    return 0 < value < math.inf and value <= most, text


def check_values(kind: str, values: Mapping[str, float], **accepted: Accepted) -> None:
    """Refuse values that a recipe cannot work with.

    Args:
        kind: what the recipe makes, for the message.
        values: by the names of the fields.
        accepted: for each field.

    Raises:
        UserError: one of them is not accepted.
    """
    for name, (fits, text) in accepted.items():
        if not fits:
            raise UserError(f"{kind}: {name} {values[name]}; accepted: {text}")


def train_batches(
    model: nn.Module,
    loss: Callable[[Tensor], Tensor],
    rows: int,
    *,
    steps: int,
    lr: float,
    seed: int,
) -> None:
    """Train a model in place by AdamW under a one-cycle learning rate; leave it frozen.

    Args:
        model: with gradients.
        loss: row numbers int64 [B] -> the loss of the model on them.
        rows: how many there are.
        steps: of training.
        lr: the largest learning rate.
        seed: of the order of rows.
    """
    rng = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=steps)
    model.train()
    order = torch.empty(0, dtype=torch.int64)
    for _ in range(steps):
        if not len(order):
            order = torch.randperm(rows, generator=rng)
        batch, order = order[:_BATCH], order[_BATCH:]
        value = loss(batch)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        schedule.step()
    model.eval().requires_grad_(False)
