"""Train, find and load the teacher, on the private side."""

import math
import time
import uuid
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from dpsd.config import Config
from dpsd.config.sections import TeacherConfig
from dpsd.console import Say
from dpsd.data.identity import dataset_home, read_dataset
from dpsd.data.load import PrivateData, Split, load_data
from dpsd.device import broadcast, pick_device, pick_dtype, rank, world_size
from dpsd.errors import UserError
from dpsd.files import locked, write_json
from dpsd.models.fit import FitRecipe, fit
from dpsd.models.frozen import Teacher
from dpsd.models.networks import Norm, build_model
from dpsd.models.own import load_own_teacher
from dpsd.privacy.inherited import DpTraining, write_dp_ledger
from dpsd.privacy.noise import NoiseSource
from dpsd.teachers.ensemble import check_kind, load_ensemble, train_ensemble
from dpsd.teachers.folder import (
    TeacherFolder,
    check_identity,
    make_home,
    own_folder,
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
    run = train_dp(model, split.images, split.labels, t.dp, source=source, say=say)
    return DpTraining(
        teacher_uuid="", noise_multiplier=run.noise_multiplier, sample_rate=run.sample_rate,
        steps=run.steps, max_grad_norm=t.dp.max_grad_norm, rows=len(split), delta=t.dp.delta,
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
        UserError: a named folder or file is missing or unreadable, or the teacher charges another
            data set's ledger than `teacher.dataset` names.
    """
    own = config.teacher.path
    if own is not None:
        return read_folder(own)
    shards = config.teacher.shards
    if shards is not None:
        check_kind(config)
    if config.teacher.weights is not None or ":" in config.teacher.model:
        return own_folder(config)
    data = data or load_data(config.data)
    folder = config.teacher.root / recipe_hash(config, data)
    if together and shards is not None and world_size() > 1:
        if broadcast((folder / "teacher.json").exists()):
            _check_dataset(config, read_folder(folder))
        else:
            _train(config, data, folder, say, together=True)
    elif not together or rank() == 0:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with locked(folder):  # another process may be training the same teacher
            if (folder / "teacher.json").exists():
                _check_dataset(config, read_folder(folder))
            else:
                _train(config, data, folder, say, together=False)
    if together:
        broadcast(None)  # wait until the first process has written
    return read_folder(folder)


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
        check_identity(config, folder)
        teacher = load_own_teacher(config.teacher, facts)
    return teacher


def train_teacher(config: Config, data: PrivateData, folder: Path, say: Say) -> TeacherFolder:
    """The folder of a teacher that is trained here by the recipe in `config.teacher`."""
    facts = config.facts
    device = pick_device(config.device)
    dtype = pick_dtype(config.precision, device)
    start = time.perf_counter()
    dp = config.teacher.dp.epsilon is not None
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
            training = fit_privately(config, model, data.train, say)
        else:
            fit(
                model, data.train.images, data.train.labels,
                teacher_recipe(config.teacher, len(data.train)), dtype=dtype,
                say=lambda line: say(f"teacher {line}"),
            )  # fmt: skip
    teacher = Teacher(model, normalize=None, classes=facts.classes, shape=facts.shape)

    def ask(images: Tensor) -> Tensor:
        with torch.autocast(device.type, dtype=dtype, enabled=dtype != torch.float32):
            logits: Tensor = teacher(images.to(device))
        return logits.float().cpu()

    name = str(uuid.uuid4())
    record = {
        "uuid": name,
        "kind": "dp_sgd" if dp else "plain",
        "recipe": recipe_of(config),
        "accuracy": {
            "holdout": accuracy(ask, data.holdout),
            "test": None if data.test is None else accuracy(ask, data.test),
        },
        "rows": {"train": len(data.train), "holdout": len(data.holdout)},
        "seconds": time.perf_counter() - start,
    }
    if training is not None:
        record["dataset"] = dataset_home(config, data)
    make_home(folder)
    if training is not None:
        write_dp_ledger(folder, replace(training, teacher_uuid=name))
    save_file({k: v.cpu().contiguous() for k, v in model.state_dict().items()},
              folder / "weights.safetensors")  # fmt: skip
    write_json(folder / "teacher.json", record)
    return read_folder(folder)


def accuracy(ask: Callable[[Tensor], Tensor], split: Split) -> float:
    """Share of rows whose most probable class is the label."""
    hits = sum(
        float((ask(x).argmax(1).cpu() == y).sum())
        for x, y in zip(split.images.split(512), split.labels.split(512), strict=True)
    )
    return hits / len(split)


def _check_dataset(config: Config, home: TeacherFolder) -> None:
    """Refuse a trained teacher that charges another data set's ledger than the wanted one."""
    wanted = config.teacher.dataset
    if wanted is None or home.facts.get("dataset") is None:
        return
    charged = read_dataset(home.ledger("record")[0])["name"]
    if charged != wanted:
        raise UserError(
            f"teacher.dataset: {wanted}, but {home.path} charges the ledger of data set {charged}; "
            f"accepted: {charged}, or another teacher.root"
        )
