"""Train a plain classifier: one loop for teachers and for the models of attacks."""

import math
from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dpsd.console import Say, track
from dpsd.data.rows import Images, ahead
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
    images: Images,
    labels: Tensor | Callable[[Tensor], Tensor],
    recipe: FitRecipe,
    *,
    dtype: torch.dtype = torch.float32,
    say: Say = lambda text: None,
    stop: Callable[[int], bool] = lambda step: False,
    name: str = "",
) -> None:
    """Train a model in place, on the device that it is on, and leave it in evaluation mode.

    Torch's global generator decides the order of the rows and the augmentation. Images on disk are
    decoded while the batches before them train; the weights are those of a fit from memory.

    Args:
        model: float images [B, C, H, W] from 0 to 1 in, logits [B, K] out.
        images: uint8 [N, C, H, W], in memory or on disk.
        labels: int64 [N]; or probabilities, float [N, K]; or a function from augmented images,
            float [B, C, H, W] from 0 to 1, to the probabilities [B, K] that the model learns.
        recipe: how to train.
        dtype: of the forward pass.
        say: receives the mean loss after each pass.
        stop: called after each step with the number of steps done; True ends the training. One
            that evaluates the model puts it back into training mode.
        name: under which the progress is shown; empty: it is not.

    Raises:
        UserError: an image on disk is missing or unreadable.
    """
    device = next(model.parameters()).device
    optimizer = torch.optim.AdamW(model.parameters(), lr=recipe.lr, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, recipe.lr, total_steps=recipe.steps)
    per_pass = math.ceil(len(images) / recipe.batch_size)
    model.train()
    total = 0.0
    with closing(_batches(images, recipe)) as batches:
        for step, (rows, batch) in enumerate(track(batches, name, recipe.steps), 1):
            x = as_input(augment(batch, recipe.augment).to(device))
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


def in_batches(rows: Tensor, size: int) -> list[Tensor]:
    """Rows [N, ...] in batches of this size, from 2; the last one may be smaller.

    No last one has a single row, as batch normalisation cannot read one value a channel.
    """
    batches = list(rows.split(size))
    if len(batches) > 1 and len(batches[-1]) == 1:
        batches[-2:] = torch.cat(batches[-2:]).split(size - 1 if size > 2 else 3)
    return batches


def _batches(images: Images, recipe: FitRecipe) -> Generator[tuple[Tensor, Tensor]]:
    """Row numbers and images of each step.

    The next pass is drawn when the one before is done, as from memory: the draws of the
    augmentation come from the same generator.
    """
    left = recipe.steps
    while left > 0:
        order = in_batches(torch.randperm(len(images)), recipe.batch_size)[:left]
        yield from ahead(images, order)
        left -= len(order)
