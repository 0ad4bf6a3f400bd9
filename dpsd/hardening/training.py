"""One training loop for students under a loss of their own."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

_BATCH = 64


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
