"""Train, find and load the teacher, on the private side."""

import math
import time
import uuid
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from dpsd.config import Config
from dpsd.config.sections import TeacherConfig
from dpsd.console import Say, detail
from dpsd.data.load import PrivateData, Split, load_data, where_rows_lie
from dpsd.device import broadcast, pick_device, pick_dtype, rank, world_size
from dpsd.errors import UserError
from dpsd.files import locked, write_json
from dpsd.models.fit import FitRecipe, fit
from dpsd.models.frozen import Teacher
from dpsd.models.networks import Norm, build_model
from dpsd.models.own import load_own_teacher
from dpsd.privacy.inherited import DpTraining, write_dp_ledger
from dpsd.privacy.noise import NoiseSource
from dpsd.privacy.plan import check_delta
from dpsd.teachers.dataset import admit_training, dataset_of, with_dataset
from dpsd.teachers.ensemble import check_kind, load_ensemble, train_ensemble
from dpsd.teachers.folder import (
    TeacherFolder,
    check_identity,
    make_home,
    own_folder,
    parameters_hash,
    read_folder,
)
from dpsd.teachers.recipe import recipe_hash, recipe_of


def teacher_recipe(config: TeacherConfig, rows: int) -> FitRecipe:
    """How a single teacher is trained without DP on a number of rows."""
    return FitRecipe(
        steps=config.epochs * math.ceil(rows / config.batch_size),
        batch_size=config.batch_size,
        lr=config.lr,
        augment=config.augment,
        label_smoothing=0.05,
    )


def fit_privately(config: Config, model: nn.Module, split: Split, say: Say) -> DpTraining:
    """Train by DP-SGD as `config.teacher.dp` says; returns its ledger, without the UUID."""
    from dpsd.teachers.dp_sgd import train_dp

    t, seeded = config.teacher, config.privacy.insecure_seeded_noise
    source = NoiseSource(f"dp-sgd {t.seed}".encode() if seeded else None)
    train_dp(model, split.images, split.labels, t.dp, source=source, say=say)
    return planned_training(config, len(split))


def planned_training(config: Config, rows: int) -> DpTraining:
    """The mechanism of `fit_privately`, before it has run; without the UUID.

    Raises:
        UserError: the noise or the delta is not accepted.
    """
    from dpsd.teachers.dp_sgd import plan_training

    dp, seeded = config.teacher.dp, config.privacy.insecure_seeded_noise
    if not config.privacy.allow_large_delta:
        check_delta("teacher.dp.delta", dp.delta, "record", rows)
    recipe = plan_training(dp, rows)
    return DpTraining(
        teacher_uuid="", noise_multiplier=recipe.noise_multiplier, steps=recipe.steps,
        sample_rate=recipe.sample_rate, max_grad_norm=dp.max_grad_norm, rows=rows, delta=dp.delta,
        seeded_noise=seeded,
    )  # fmt: skip


def ensure_teacher(
    config: Config, say: Say, *, together: bool = False, data: PrivateData | None = None
) -> TeacherFolder:
    """The teacher's folder; a missing teacher is trained first.

    Args:
        config: names the teacher, or holds its recipe.
        say: receives progress.
        together: all processes of torchrun make this call and share the training of an ensemble.
        data: instead of the configuration's, as a client of a federation holds them.

    Raises:
        UserError: a named folder or file is missing or unreadable, the teacher charges another
            data set's ledger than `data.dataset` names, or an older `./teachers` is not adopted.
    """
    own = config.teacher.path
    if own is not None:
        return with_dataset(config, read_folder(own))
    check_root(config)
    shards = config.teacher.shards
    if shards is not None:
        check_kind(config)
    if config.teacher.weights is not None or ":" in config.teacher.model:
        return with_dataset(config, own_folder(config))
    data = data or load_data(config.data)
    if line := where_rows_lie(data):
        say(line)
    folder = config.teacher.root / recipe_hash(config, data)
    if together and shards is not None and world_size() > 1:
        if not broadcast((folder / "teacher.json").exists()):
            _train(config, data, folder, say, together=True)
    elif not together or rank() == 0:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with locked(folder):  # another process may be training the same teacher
            if not (folder / "teacher.json").exists():
                _train(config, data, folder, say, together=False)
    if together:
        broadcast(None)  # wait until the first process has written
    home = read_folder(folder)
    return with_dataset(config, home) if rank() == 0 else home


def check_root(config: Config) -> None:
    """Refuse the default root where the working directory has teachers of an older default.

    Raises:
        UserError: it says how to adopt them.
    """
    older = Path("teachers")
    if "root" in config.teacher.model_fields_set or not older.is_dir():
        return
    if any(older.glob("*/teacher.json")) or (older / "datasets").is_dir():
        raise UserError(
            f"teacher.root: {config.teacher.root} by default, but ./teachers holds teachers and "
            "ledgers; accepted: --set teacher.root=teachers to go on with them, or move them to "
            f"{config.teacher.root}, so that what was released goes on counting"
        )


def _train(config: Config, data: PrivateData, folder: Path, say: Say, *, together: bool) -> None:
    shards = config.teacher.shards
    number = "" if shards is None else f"{shards} teachers "
    name = f"{number}{config.teacher.model} on {config.data.name}"
    say(f"no teacher of this recipe yet: training {name}")
    if shards is None:
        train_teacher(config, data, folder, say)
    else:
        train_ensemble(config, data, folder, say, together=together)


def load_teacher(config: Config, folder: TeacherFolder) -> Callable[[Tensor], Tensor]:
    """The frozen teacher, a function from uint8 images [B, C, H, W] to logits float32 [B, K].

    An ensemble gives votes int64 [B, K], where each row sums to the number of teachers.

    Raises:
        UserError: the weights are unreadable or another teacher's.
    """
    if folder.kind == "ensemble":
        return load_ensemble(config, folder)
    device = pick_device(config.device)
    dtype = pick_dtype(config.precision, device)
    teacher = frozen_teacher(config, folder).to(device).to(memory_format=torch.channels_last)

    def ask(images: Tensor) -> Tensor:
        with torch.autocast(device.type, dtype=dtype, enabled=dtype != torch.float32):
            logits: Tensor = teacher(images.to(device))
        return logits.float()

    return ask


def frozen_teacher(config: Config, folder: TeacherFolder) -> Teacher:
    """A single teacher, frozen and on the CPU.

    Raises:
        UserError: the weights are unreadable or another teacher's.
    """
    facts = config.facts
    weights = folder.path / "weights.safetensors"
    if weights.exists():
        norm: Norm = "group" if folder.kind == "dp_sgd" else "batch"
        model = build_model(folder.recipe["model"], facts.shape, facts.classes, norm=norm)
        try:
            model.load_state_dict(load_file(weights))
        except Exception as e:
            raise UserError(f"teacher {weights}: unreadable: {str(e).splitlines()[0]}") from e
        teacher = Teacher(model, normalize=None, classes=facts.classes, shape=facts.shape)
    else:
        teacher = load_own_teacher(config.teacher, facts)
        check_identity(config, folder, teacher)
    return teacher


def train_teacher(config: Config, data: PrivateData, folder: Path, say: Say) -> TeacherFolder:
    """The folder of a teacher that is trained here by the recipe in `config.teacher`."""
    facts = config.facts
    device = pick_device(config.device)
    dtype = pick_dtype(config.precision, device)
    start = time.perf_counter()
    dp = config.teacher.dp.epsilon is not None
    dataset = dataset_of(config, data, "training by DP-SGD" if dp else None)
    if dp:
        assert dataset is not None
        admit_training(config, dataset, planned_training(config, len(data.train)))
    training = None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.teacher.seed)
        model = (
            build_model(
                config.teacher.model, facts.shape, facts.classes, norm="group" if dp else "batch"
            )
            .to(device)
            .to(memory_format=torch.channels_last)
        )
        if dp:
            training = fit_privately(config, model, data.train, detail(say))
        else:
            fit(
                model, data.train.images, data.train.labels,
                teacher_recipe(config.teacher, len(data.train)), dtype=dtype,
                say=detail(lambda line: say(f"teacher {line}")), name="teacher: steps",
            )  # fmt: skip
    teacher = Teacher(model, normalize=None, classes=facts.classes, shape=facts.shape)

    def ask(images: Tensor) -> Tensor:
        with torch.autocast(device.type, dtype=dtype, enabled=dtype != torch.float32):
            logits: Tensor = teacher(images.to(device))
        return logits.float().cpu()

    name = str(uuid.uuid4())
    record: dict[str, Any] = {
        "uuid": name,
        "kind": "dp_sgd" if dp else "plain",
        "recipe": recipe_of(config),
        "identity": parameters_hash(model.state_dict()),
        "accuracy": {
            "holdout": accuracy(ask, data.holdout),
            "test": None if data.test is None else accuracy(ask, data.test),
        },
        "rows": {"train": len(data.train), "holdout": len(data.holdout)},
        "seconds": time.perf_counter() - start,
    }
    record["dataset"] = dataset
    make_home(folder)
    save_file({k: v.cpu().contiguous() for k, v in model.state_dict().items()},
              folder / "weights.safetensors")  # fmt: skip
    if training is not None:
        write_dp_ledger(folder, replace(training, teacher_uuid=name))
    write_json(folder / "teacher.json", record)
    return read_folder(folder)


def accuracy(ask: Callable[[Tensor], Tensor], split: Split) -> float:
    """Share of rows whose most probable class is the label."""
    hits = sum(
        float((ask(x).argmax(1).cpu() == y).sum())
        for x, y in zip(split.images.split(512), split.labels.split(512), strict=True)
    )
    return hits / len(split)
