"""Seconds and bytes that teachers take here, from a few of them on synthetic images."""

import time
from collections.abc import Callable
from typing import Any

import torch

from dpsd.config import Config
from dpsd.data import PublicFacts
from dpsd.device import pick_device, pick_dtype
from dpsd.dp_models import build_dp_model, fixed_inputs
from dpsd.dp_teacher import train_dp
from dpsd.ensemble import Members, Weights, member_choices, train_members
from dpsd.generator.procedural import procedural
from dpsd.privacy.noise import NoiseSource
from dpsd.sections import DpConfig
from dpsd.vote_model import Choice

_TEACHERS = 8
_COPIES = 16
_ASKED = 32
_DP_ROWS = 512
_LEAST_ROWS = 2


def ensemble_cost(config: Config, facts: PublicFacts, choice: Choice) -> dict[str, Any]:
    """Training all teachers and their votes, extrapolated from eight teachers.

    Args:
        config: of the run.
        facts: public shape and number of classes.
        choice: the number of teachers and answers.

    Returns:
        `seconds_by_part` and `bytes` of the weights.
    """
    device, size = pick_device(config.device), max(_LEAST_ROWS, round(choice.rows_per_teacher))
    dtype = pick_dtype(config, device)
    images, labels = _synthetic(_TEACHERS * size, facts)
    rows = {i: torch.arange(i * size, (i + 1) * size) for i in range(_TEACHERS)}

    def train() -> Weights:
        members = Members(images, labels, rows, bytes(16))
        return train_members(config.teacher, facts, members, device=device, dtype=dtype)

    weights = train()
    each = _seconds(train) / _TEACHERS
    asked, _ = _synthetic(_ASKED, facts)
    few, many = (_vote_seconds(config, facts, weights, copies, asked) for copies in (1, _COPIES))
    vote = max(0.0, many - few) / (_COPIES - 1) / _TEACHERS  # the rest is once for each image
    size_each = sum(w.numel() * w.element_size() for w in weights.values()) / _TEACHERS
    return {
        "seconds_by_part": {
            "teachers": each * choice.shards,
            "teacher": (vote * choice.shards + few) / _ASKED * choice.answers,
        },
        "bytes": round(2 * size_each * choice.shards),  # once stacked, once in the file's buffer
    }


def inherited_cost(config: Config, facts: PublicFacts, rows: int) -> dict[str, Any]:
    """DP-SGD of one teacher, extrapolated from two steps on 512 synthetic images.

    Args:
        config: of the run; `teacher.dp` is read.
        facts: public shape and number of classes.
        rows: of the training data.
    """
    images, labels = _synthetic(_DP_ROWS, facts)
    device = pick_device(config.device)
    dp = DpConfig(
        epsilon=1e9, noise_multiplier=1.0, batch_size=_DP_ROWS, epochs=2, lr=config.teacher.dp.lr,
        max_grad_norm=config.teacher.dp.max_grad_norm,
    )  # fmt: skip
    source = NoiseSource()

    def train() -> None:
        model = build_dp_model(config.teacher.model, facts.shape, facts.classes).to(device)
        train_dp(model, images, labels, dp, source=source, say=lambda text: None)

    def look() -> torch.Tensor:
        model = build_dp_model(config.teacher.model, facts.shape, facts.classes).to(device)
        return fixed_inputs(model, images)

    look()
    once = _seconds(look)
    train()
    each = max(0.0, _seconds(train) - once) / dp.epochs / _DP_ROWS
    example = look()[0]
    return {
        "seconds_by_part": {
            "teachers": once / _DP_ROWS * rows + each * rows * config.teacher.dp.epochs
        },
        "bytes": rows * example.numel() * example.element_size(),
    }


def _vote_seconds(
    config: Config, facts: PublicFacts, weights: Weights, copies: int, asked: torch.Tensor
) -> float:
    """Of the votes on all images, by so many copies of the teachers; the faster of two."""
    device = pick_device(config.device)
    dtype = pick_dtype(config, device)
    tiled = {name: torch.cat([w] * copies) for name, w in weights.items()}
    choose = member_choices(config.teacher.model, facts, tiled, device, dtype)
    choose(asked)
    return min(_seconds(lambda: choose(asked)) for _ in range(2))


def _seconds(work: Callable[[], Any]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def _synthetic(n: int, facts: PublicFacts) -> tuple[torch.Tensor, torch.Tensor]:
    """Images of the strokes prior and labels in turn; nothing is drawn from global generators."""
    images = procedural("strokes", n, facts.shape, torch.Generator().manual_seed(0))
    return images, torch.arange(n) % facts.classes
