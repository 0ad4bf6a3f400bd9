"""The private teacher: training, the folder it lives in, and the cache by recipe.

Everything here stands on the private side; nothing of it goes under `release/`.
"""

import hashlib
import json
import os
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from dpsd import parallel
from dpsd.config import Config
from dpsd.data import NAMED, PrivateData, Split, fingerprint, load_data, public_facts
from dpsd.dataset_home import dataset_home, read_dataset
from dpsd.device import pick_device, pick_dtype
from dpsd.ensemble_folder import check_kind, ensemble_recipe, load_ensemble, train_ensemble
from dpsd.errors import UserError
from dpsd.fitting import fit, fit_privately
from dpsd.frozen import Teacher
from dpsd.loading import load_own_teacher
from dpsd.locks import one_at_a_time
from dpsd.models import Norm, build_model
from dpsd.privacy.inherited import write_dp_ledger

Say = Callable[[str], None]


@dataclass(frozen=True)
class TeacherFolder:
    """A teacher's home: `teacher.json`, `weights.safetensors`, `ledger.jsonl`. All private."""

    path: Path
    uuid: str
    facts: dict[str, Any]

    def ledger(self, unit: str) -> tuple[Path, str]:
        """Where releases are charged and whose ledger that is, by UUID.

        The data set's for the units record and user, so that all that is released about its
        records composes; the teacher's own otherwise.

        Raises:
            UserError: the data set's folder is missing, or another's.
        """
        dataset = self.facts.get("dataset")
        if dataset is None or unit not in ("record", "user"):
            return self.path, self.uuid
        folder = self.path.parent / dataset["folder"]
        if read_dataset(folder)["uuid"] != dataset["uuid"]:
            raise UserError(f"{folder}: is another data set's than {self.path} was trained on")
        return folder, str(dataset["uuid"])


def ensure_teacher(
    config: Config, say: Say, *, together: bool = False, data: PrivateData | None = None
) -> TeacherFolder:
    """The teacher's folder; a missing teacher is trained first, and said so.

    `together`: all processes of torchrun make this call, and share the training of an ensemble.
    `data`: other data than the configuration's, as a client of a federation holds them.

    Raises:
        UserError: a folder or file that is named but missing or unreadable.
    """
    own = config.teacher.path
    if own is not None:
        return read_folder(own)
    shards = config.teacher.shards
    if shards is not None:
        check_kind(config)
    if config.teacher.weights is not None or ":" in config.teacher.model:
        return _own_folder(config)
    data = data or load_data(config.data)
    folder = config.teacher.root / _recipe_hash(config, data)
    if together and shards is not None and parallel.world() > 1:
        if parallel.broadcast((folder / "teacher.json").exists()):
            _check_dataset(config, read_folder(folder))
        else:
            _train(config, data, folder, say, together=True)
    elif not together or parallel.rank() == 0:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with one_at_a_time(folder):  # another process may lack the same teacher
            if (folder / "teacher.json").exists():
                _check_dataset(config, read_folder(folder))
            else:
                _train(config, data, folder, say, together=False)
    if together:
        parallel.broadcast(None)  # the first process has written
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
    """uint8 images [B, C, H, W] -> logits float32 [B, K], frozen, in evaluation mode.

    For an ensemble: votes int64 [B, K], each row's sum is the number of teachers.
    """
    if (folder.facts.get("recipe") or {}).get("shards") is not None:
        return load_ensemble(config, folder.path, folder.facts["recipe"])
    device = pick_device(config.device)
    dtype = pick_dtype(config, device)
    teacher = frozen_teacher(config, folder).to(device).to(memory_format=torch.channels_last)

    def ask(images: Tensor) -> Tensor:
        with torch.autocast(device.type, dtype=dtype, enabled=dtype != torch.float32):
            logits: Tensor = teacher(images.to(device))
        return logits.float()

    return ask


def frozen_teacher(config: Config, folder: TeacherFolder) -> Teacher:
    """One teacher, no ensemble, frozen on the CPU.

    Raises:
        UserError: weights that are unreadable or another teacher's.
    """
    facts = public_facts(config.data)
    weights = folder.path / "weights.safetensors"
    if weights.exists():
        recipe = folder.facts["recipe"]
        norm: Norm = "group" if recipe.get("dp") else "batch"
        model = build_model(recipe["model"], facts.shape, facts.classes, norm=norm)
        try:
            model.load_state_dict(load_file(weights))
        except Exception as e:
            raise UserError(f"teacher {weights}: unreadable: {str(e).splitlines()[0]}") from e
        teacher = Teacher(model, normalize=None, classes=facts.classes, shape=facts.shape)
    else:
        _check_identity(config, folder)
        teacher = load_own_teacher(config.teacher, facts)
    return teacher


def train_teacher(config: Config, data: PrivateData, folder: Path, say: Say) -> TeacherFolder:
    """Train by the recipe in `config.teacher`, and write the folder."""
    facts = public_facts(config.data)
    device = pick_device(config.device)
    dtype = pick_dtype(config, device)
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
            fit(config, model, data.train, device, dtype, say)
    teacher = Teacher(model, normalize=None, classes=facts.classes, shape=facts.shape)

    def ask(images: Tensor) -> Tensor:
        with torch.autocast(device.type, dtype=dtype, enabled=dtype != torch.float32):
            logits: Tensor = teacher(images.to(device))
        return logits.float().cpu()

    name = str(uuid.uuid4())
    record = {
        "uuid": name,
        "recipe": _recipe(config),
        "accuracy": {
            "holdout": accuracy(ask, data.holdout),
            "test": None if data.test is None else accuracy(ask, data.test),
        },
        "rows": {"train": len(data.train), "holdout": len(data.holdout)},
        "seconds": time.perf_counter() - start,
    }
    if training is not None:
        record["dataset"] = dataset_home(config, data)
    folder.mkdir(parents=True, exist_ok=True)
    os.chmod(folder, 0o700)
    if training is not None:
        write_dp_ledger(folder, replace(training, teacher_uuid=name))
    save_file({k: v.cpu().contiguous() for k, v in model.state_dict().items()},
              folder / "weights.safetensors")  # fmt: skip
    _write_json(folder / "teacher.json", record)
    return read_folder(folder)


def accuracy(ask: Callable[[Tensor], Tensor], split: Split) -> float:
    """Share of rows whose most probable class is the label."""
    hits = sum(
        float((ask(x).argmax(1).cpu() == y).sum())
        for x, y in zip(split.images.split(512), split.labels.split(512), strict=True)
    )
    return hits / len(split)


def as_logits(answers: Tensor) -> Tensor:
    """Logits as they are, votes int64 [B, K] as logits whose softmax is the share of the votes."""
    if answers.is_floating_point():
        return answers
    return (answers / answers.sum(1, keepdim=True)).clamp_min(1e-9).log()


def _check_dataset(config: Config, home: TeacherFolder) -> None:
    """A teacher that is there already charges the data set that it was trained under."""
    wanted = config.teacher.dataset
    if wanted is None or home.facts.get("dataset") is None:
        return
    found = read_dataset(home.ledger("record")[0])["name"]
    if found != wanted:
        raise UserError(
            f"teacher.dataset: {wanted}, but {home.path} charges the ledger of data set {found}; "
            f"accepted: {found}, or another teacher.root"
        )


def _recipe(config: Config) -> dict[str, Any]:
    t = config.teacher
    if t.dp.epsilon is not None:
        seeded = config.privacy.insecure_seeded_noise
        dp = t.dp.model_dump() | {"seeded_noise": seeded}
        return {"model": t.model, "dp": dp, "seed": t.seed, "data": config.data.name}
    return {
        "model": t.model,
        "epochs": t.epochs,
        "batch_size": t.batch_size,
        "lr": t.lr,
        "augment": t.augment,
        "seed": t.seed,
        "data": config.data.name,
    }


def _recipe_hash(config: Config, data: PrivateData) -> str:
    """Names a teacher by recipe and a private fingerprint of the data."""
    facts = _recipe(config) if config.teacher.shards is None else ensemble_recipe(config)
    facts |= {"fingerprint": fingerprint(data)}
    if config.data.name not in NAMED:  # else the same rows may be said to be of more classes
        facts["classes"] = public_facts(config.data).classes
    if config.data.user_ids is not None:
        facts["users"] = hashlib.blake2b(config.data.user_ids.read_bytes()).hexdigest()
    text = json.dumps(facts, sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def _own_folder(config: Config) -> TeacherFolder:
    """Home of the user's own teacher: beside its weights, or by name without weights."""
    t, identity = config.teacher, _identity(config)
    if t.weights is None:
        folder = t.root / hashlib.blake2b(t.model.encode(), digest_size=8).hexdigest()
    else:
        folder = t.weights.with_name(t.weights.name + ".dpsd")
    if not (folder / "teacher.json").exists():
        load_own_teacher(t, public_facts(config.data))  # a file that does not fit gets no home
        folder.mkdir(parents=True, exist_ok=True)
        os.chmod(folder, 0o700)
        record = {"uuid": str(uuid.uuid4()), "identity": identity, "recipe": None}
        with one_at_a_time(folder):  # of two processes one names the teacher
            if not (folder / "teacher.json").exists():
                _write_json(folder / "teacher.json", record | {"accuracy": None})
    home = read_folder(folder)
    _check_identity(config, home)
    return home


def _identity(config: Config) -> str:
    """Tells the user's own teachers apart: the hash of the weights, or the import path."""
    t = config.teacher
    if t.weights is None:
        return t.model
    if not t.weights.is_file():
        raise UserError(f"teacher.weights: {t.weights} is no file")
    return hashlib.blake2b(t.weights.read_bytes(), digest_size=16).hexdigest()


def _check_identity(config: Config, home: TeacherFolder) -> None:
    """One teacher's answers are never charged to another's ledger, also not on resume."""
    if home.facts.get("identity") != _identity(config):
        raise UserError(
            f"teacher.weights: {config.teacher.weights or config.teacher.model} is not the teacher "
            f"that {home.path} belongs to; give new weights another file name, so that each "
            "teacher keeps its own ledger"
        )


def read_folder(path: Path) -> TeacherFolder:
    """An existing teacher's folder.

    Raises:
        UserError: it holds no readable `teacher.json`.
    """
    try:
        facts = json.loads((path / "teacher.json").read_text())
        return TeacherFolder(path, facts["uuid"], facts)
    except (OSError, ValueError, KeyError) as e:
        raise UserError(f"teacher.path: {path} holds no readable teacher.json: {e}") from e


def _write_json(path: Path, tree: dict[str, Any]) -> None:
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(tree, indent=2) + "\n")
    os.replace(partial, path)
