"""Train an ensemble, write its folder, load it."""

import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from dpsd.config import Config
from dpsd.console import Say, working
from dpsd.data.load import PrivateData, Split
from dpsd.device import broadcast, gather, pick_device, pick_dtype, rank, world_size
from dpsd.errors import UserError
from dpsd.files import write_json
from dpsd.imports import brief
from dpsd.randomness import draw_key
from dpsd.teachers.dataset import dataset_of, roster_id
from dpsd.teachers.folder import TeacherFolder, make_home
from dpsd.teachers.members import (
    KINDS,
    Members,
    chunks,
    ensemble_votes,
    member_choices,
    train_members,
)
from dpsd.teachers.recipe import recipe_of
from dpsd.teachers.sharding import Shards, save_shards, shard

_MEASURED = 2000  # holdout rows, on which a thousand networks take 50 s on one core


def train_ensemble(
    config: Config,
    data: PrivateData,
    folder: Path,
    say: Say,
    *,
    key: bytes | None = None,
    together: bool = False,
) -> None:
    """Train `teacher.shards` teachers and write the folder.

    Args:
        config: the recipe.
        data: private, as from `load_data`.
        folder: new.
        say: receives progress.
        key: of the sharding and of all random streams; drawn by default. `shards.npz` keeps it.
        together: all processes of torchrun make this call. Each trains every world-th chunk, and
            the first one writes. Otherwise this process trains all.

    Raises:
        UserError: the order of the records depends on their content, or the model is none of
            `KINDS`.
    """
    n = config.teacher.shards
    assert n is not None
    check_kind(config)
    facts, device = config.facts, pick_device(config.device)
    dtype = pick_dtype(config.precision, device)
    start = time.perf_counter()
    working("teacher: shards", 0, n)
    dataset = dataset_of(config, data, "an ensemble")  # on every rank: all fail, or none
    key = key or draw_key()
    first, processes = 0, 1
    if together:
        first, processes, key = rank(), world_size(), broadcast(key)
    shards = shard(config.data, data, n, key)
    rows, mine = shards.rows(), {}
    every = chunks(n)
    for i in range(first, len(every), processes):
        members = Members(data.train.images, data.train.labels, {m: rows[m] for m in every[i]}, key)
        mine[i] = train_members(config.teacher, facts, members, device=device, dtype=dtype)
        working("teacher: shards", every[i].stop, n)
    parts = gather(mine) if together else [mine]
    if parts is None:
        return
    trained = {i: part for some in parts for i, part in some.items()}
    weights = {k: torch.cat([trained[i][k] for i in range(len(every))]) for k in trained[0]}
    seconds = time.perf_counter() - start
    choose = member_choices(config.teacher.model, facts, weights, device, dtype)
    record = {
        "uuid": str(uuid.uuid4()),
        "kind": "ensemble",
        "recipe": recipe_of(config),
        "accuracy": {"holdout": _plurality(choose, data.holdout), "test": None},
        "rows": {"train": len(data.train), "holdout": len(data.holdout)},
        "seconds": seconds,
        "dataset": dataset,
        "roster": roster_id(config, dataset),
    }
    _write(folder, record, weights, shards)


def load_ensemble(config: Config, home: TeacherFolder) -> Callable[[Tensor], Tensor]:
    """A function from uint8 images [B, C, H, W] to votes int64 [B, K].

    Each row sums to the number of teachers.

    Raises:
        UserError: the weights are missing, damaged or of another recipe.
    """
    facts, device = config.facts, pick_device(config.device)
    path, dtype = home.path / "weights.safetensors", pick_dtype(config.precision, device)
    try:
        weights = load_file(path)
        if len(weights["empty"]) != home.shards:
            raise ValueError(f"{len(weights['empty'])} teachers, not {home.shards}")
        ask = ensemble_votes(home.recipe["model"], facts, weights, device, dtype)
        ask(torch.zeros(1, *facts.shape, dtype=torch.uint8))
    except Exception as e:
        raise UserError(f"teacher {path}: unreadable: {brief(e)}") from e
    return ask


def check_kind(config: Config) -> None:
    """Refuse a model that no ensemble can be made of, before any data are read.

    Raises:
        UserError: the model is none of `KINDS`, or `teacher.weights` is set.
    """
    t = config.teacher
    if t.weights is not None:
        raise UserError(
            f"teacher.weights: {t.weights} with teacher.shards {t.shards}; an ensemble is trained "
            "here, so set one of the two to null"
        )
    if t.model not in KINDS:
        raise UserError(
            f"teacher.model: {t.model} with teacher.shards {t.shards}; accepted for an ensemble: "
            f"{', '.join(KINDS)}"
        )


def _plurality(choose: Callable[[Tensor], Tensor], split: Split) -> float:
    """Share of (at most `_MEASURED`) rows on which the plurality vote is the label. Private."""
    hits, rows = 0, min(len(split), _MEASURED)
    first = split.pick(torch.arange(rows))
    for x, y in zip(first.images.split(512), first.labels.split(512), strict=True):
        votes = torch.nn.functional.one_hot(choose(x)).sum(0)
        hits += int((votes.argmax(1) == y).sum())
    return hits / rows


def _write(
    folder: Path, record: dict[str, Any], weights: dict[str, Tensor], shards: Shards
) -> None:
    make_home(folder)
    save_shards(folder / "shards.npz", shards)
    save_file({k: v.contiguous() for k, v in weights.items()}, folder / "weights.safetensors")
    write_json(folder / "teacher.json", record)
