"""Train a plain classifier: one loop for teachers and for the models of attacks."""

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dpsd.console import Say
from dpsd.models.augment import augment
from dpsd.models.networks import as_input


@dataclass(frozen=True)
class FitRecipe:
    """AdamW under a one-cycle learning rate, on passes over the rows in random order."""

    steps: int
    batch_size: int
    lr: float
    """The largest of the cycle."""
    augment: str = "shift"
    label_smoothing: float = 0.0


def fit(
    model: nn.Module,
    images: Tensor,
    labels: Tensor | Callable[[Tensor], Tensor],
    recipe: FitRecipe,
    *,
    dtype: torch.dtype = torch.float32,
    say: Say = lambda text: None,
    stop: Callable[[int], bool] = lambda step: False,
) -> None:
    """Train a model in place, on the device that it is on, and leave it in evaluation mode.

    Torch's global generator decides the order of the rows and the augmentation.

    Args:
        model: float images [B, C, H, W] from 0 to 1 in, logits [B, K] out.
        images: uint8 [N, C, H, W].
        labels: int64 [N]; or a function from augmented images, float [B, C, H, W] from 0 to 1, to
            the probabilities [B, K] that the model learns for them.
        recipe: how to train.
        dtype: of the forward pass.
        say: receives the mean loss after each pass.
        stop: called after each step with the number of steps done; True ends the training. One
            that evaluates the model puts it back into training mode.
    """
    device = next(model.parameters()).device
    optimizer = torch.optim.AdamW(model.parameters(), lr=recipe.lr, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, recipe.lr, total_steps=recipe.steps)
    per_pass = math.ceil(len(images) / recipe.batch_size)
    model.train()
    total = 0.0
    batches = itertools.islice(_batches(len(images), recipe.batch_size), recipe.steps)
    for step, rows in enumerate(batches, 1):
        x = as_input(augment(images[rows], recipe.augment).to(device))
        target = labels(x) if callable(labels) else labels[rows].to(device)
        with torch.autocast(device.type, dtype=dtype, enabled=dtype != torch.float32):
            logits = model(x)
        loss = F.cross_entropy(logits.float(), target, label_smoothing=recipe.label_smoothing)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        total += float(loss.detach()) * len(rows)
        if step % per_pass == 0:
            passes = f"{step // per_pass}/{math.ceil(recipe.steps / per_pass)}"
            say(f"epoch {passes} loss {total / len(images):.4f}")
            total = 0.0
        if stop(step):
            break
    model.eval()


def _batches(rows: int, size: int) -> Iterator[Tensor]:
    while True:
        yield from torch.randperm(rows).split(size)
