"""Pairs of teachers trained with the same seed on data that differ in one record (replace-one)."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from dpsd.attacks.context import Attack
from dpsd.config import Config
from dpsd.config.sections import DpConfig, TeacherConfig
from dpsd.data.load import PrivateData, Split, join_splits
from dpsd.device import pick_device, pick_dtype
from dpsd.errors import UserError
from dpsd.teachers.folder import TeacherFolder, read_folder
from dpsd.teachers.members import Members, member_choices, train_members
from dpsd.teachers.sharding import load_shards
from dpsd.teachers.teacher import load_teacher, train_teacher

Ask = Callable[[Tensor], Tensor]
_OWN = ("model", "epochs", "batch_size", "lr", "augment", "seed", "shards", "copies", "ridge")


@dataclass(frozen=True)
class Pair:
    """Two worlds that differ in row `row`; `kind` says what stands there in world 1.

    `world0` and `world1` map uint8 images [B, C, H, W] to probabilities, float [B, K]; for an
    ensemble to the one vote that the record can move, int64 [B, K].
    """

    row: int
    kind: str
    world0: Ask
    world1: Ask


def retrainable(home: TeacherFolder) -> str | None:
    """Why teachers like this one cannot be trained in pairs, or None where they can."""
    if home.kind == "own":
        return "the teacher is your own: there is no recipe to train others by"
    if home.kind == "dp_sgd":
        return (
            "training by DP-SGD is itself random, so one pair of teachers shows nothing; the one "
            "run with canaries audits it"
        )
    return None


def recipe_config(config: Config, home: TeacherFolder) -> Config:
    """The run's configuration, with the recipe by which its teacher was in fact trained."""
    recipe = home.recipe
    found = {key: recipe[key] for key in _OWN if key in recipe}
    if home.kind == "ensemble" and "steps" in recipe:
        found |= {"shard_steps": recipe["steps"], "shard_batch": recipe["batch_size"]}
        found.pop("batch_size", None)
    if home.kind == "dp_sgd":  # a teacher by path: its configuration says nothing of its training
        found["dp"] = {k: v for k, v in recipe["dp"].items() if k in DpConfig.model_fields}
    teacher = TeacherConfig(**(config.teacher.model_dump() | found | {"path": None}))
    return config.model_copy(update={"teacher": teacher})


def teacher_pairs(
    context: Attack, home: TeacherFolder, data: PrivateData, *, pairs: int, folder: Path
) -> Iterator[Pair]:
    """The pairs, trained one after another; teachers that `folder` holds already are read.

    Args:
        context: of the audit; its seed decides which rows.
        home: the run's teacher, of which only the recipe (and an ensemble's shards) is used.
        data: the private data, which are those of world 0.
        pairs: how many; in turn the record is mislabelled or replaced by another one.
        folder: private, holds the trained teachers.

    Raises:
        UserError: no holdout row to put in place of an ordinary record.
    """
    # The first pairs of a larger budget are those of a smaller one, and so are their teachers.
    seed, config = context.seed, recipe_config(context.config, home)
    rows = np.random.default_rng(seed).permutation(len(data.train))[:pairs]
    for i, row in enumerate(rows.tolist()):
        rng = np.random.default_rng([seed, i])
        changed, kind = _changed(config, data, row, mislabelled=i % 2 == 0, rng=rng)
        context.say(f"pair {i + 1}/{pairs}: row {row}, {kind}")
        if config.teacher.shards is not None:
            world0, world1 = (_voter(config, home, d.train, row) for d in (data, changed))
        else:
            world0 = _trained(config, data, folder / "base")
            world1 = _trained(config, changed, folder / f"seed-{seed}-pair-{i}-row-{row}")
        yield Pair(row, kind, world0, world1)


def _changed(
    config: Config, data: PrivateData, row: int, *, mislabelled: bool, rng: np.random.Generator
) -> tuple[PrivateData, str]:
    train = data.train
    if mislabelled:
        classes, labels = config.facts.classes, train.labels.clone()
        labels[row] = (labels[row] + int(rng.integers(1, classes))) % classes
        return replace(data, train=Split(train.images, labels)), "the same image with a wrong label"
    if not len(data.holdout):
        raise UserError("data: no holdout row to put in place of a record; at least 1 is needed")
    places = torch.arange(len(train))
    places[row] = len(train) + int(rng.integers(len(data.holdout)))
    changed = join_splits(train, data.holdout).pick(places)
    return replace(data, train=changed), "another ordinary record"


def _trained(config: Config, data: PrivateData, folder: Path) -> Ask:
    exists = (folder / "teacher.json").exists()
    home = read_folder(folder) if exists else train_teacher(config, data, folder, lambda text: None)
    logits = load_teacher(config, home)
    return lambda images: torch.cat([logits(x).cpu() for x in images.split(512)]).softmax(1)


def _voter(config: Config, home: TeacherFolder, train: Split, row: int) -> Ask:
    """The one teacher of the ensemble that the row reaches, trained anew; its vote."""
    shards = load_shards(home.path / "shards.npz")
    number = int(shards.teacher_of[row])
    facts, device = config.facts, pick_device(config.device)
    dtype = pick_dtype(config.precision, device)
    members = Members(train.images, train.labels, {number: shards.rows()[number]}, shards.key)
    weights = train_members(config.teacher, facts, members, device=device, dtype=dtype)
    choose = member_choices(config.teacher.model, facts, weights, device, dtype)
    return lambda images: F.one_hot(choose(images)[0], facts.classes)
