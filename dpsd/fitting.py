"""How one teacher is fitted, without privacy or by DP-SGD, and its augmentation."""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dpsd.config import Config
from dpsd.data import Split
from dpsd.privacy.inherited import DpTraining
from dpsd.privacy.noise import NoiseSource
from dpsd.student import as_input
from dpsd.warp import DRAWS, warp

Say = Callable[[str], None]


def fit(
    config: Config,
    model: nn.Module,
    split: Split,
    device: torch.device,
    dtype: torch.dtype,
    say: Say,
) -> None:
    """Adam with a one-cycle learning rate, label smoothing 0.05 and the recipe's augmentation."""
    c = config.teacher
    optimizer = torch.optim.AdamW(model.parameters(), lr=c.lr, weight_decay=1e-2)
    per_epoch = math.ceil(len(split) / c.batch_size)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, c.lr, total_steps=c.epochs * per_epoch
    )
    model.train()
    for epoch in range(c.epochs):
        total = 0.0
        for rows in torch.randperm(len(split)).split(c.batch_size):
            images, labels = _augmented(split.images[rows], c.augment), split.labels[rows]
            with torch.autocast(device.type, dtype=dtype, enabled=dtype != torch.float32):
                logits = model(as_input(images.to(device)))
            loss = F.cross_entropy(logits.float(), labels.to(device), label_smoothing=0.05)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += float(loss.detach()) * len(rows)
        say(f"teacher epoch {epoch + 1}/{c.epochs} loss {total / len(split):.4f}")
    model.eval()


def fit_privately(config: Config, model: nn.Module, split: Split, say: Say) -> DpTraining:
    """DP-SGD by the recipe in `config.teacher.dp`; what its ledger says, less the UUID."""
    from dpsd.dp_teacher import train_dp

    t, seeded = config.teacher, config.privacy.insecure_seeded_noise
    source = NoiseSource(f"dp-sgd {t.seed}".encode() if seeded else None)
    run = train_dp(model, split.images, split.labels, t.dp, source=source, say=say)
    return DpTraining(
        teacher_uuid="", noise_multiplier=run.noise_multiplier, sample_rate=run.sample_rate,
        steps=run.steps, max_grad_norm=t.dp.max_grad_norm, rows=len(split), delta=t.dp.delta,
        seeded_noise=seeded,
    )  # fmt: skip


def _augmented(images: Tensor, kind: str) -> Tensor:
    if kind == "affine":
        return warp(images, kind, torch.rand(len(images), DRAWS))
    return augment(images, kind)


def augment(images: Tensor, kind: str) -> Tensor:
    """Random shifts of up to a fourteenth of the side (and flips) from torch's global generator."""
    if kind == "none":
        return images
    n, _, h, w = images.shape
    dy, dx = max(1, round(h / 14)), max(1, round(w / 14))
    padded = F.pad(images, (dx, dx, dy, dy))
    rows = torch.arange(h) + torch.randint(0, 2 * dy + 1, (n, 1))
    columns = torch.arange(w) + torch.randint(0, 2 * dx + 1, (n, 1))
    if kind == "shift-flip":
        flip = torch.rand(n, 1) < 0.5
        columns = torch.where(flip, columns.flip(1), columns)
    picked = padded[torch.arange(n)[:, None, None], :, rows[:, :, None], columns[:, None, :]]
    return picked.permute(0, 3, 1, 2)
