"""A teacher's home: `teacher.json`, `weights.safetensors`, `ledger.jsonl`. All private."""

import hashlib
import json
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from dpsd.config import Config
from dpsd.data.identity import read_dataset
from dpsd.errors import UserError
from dpsd.files import locked, write_json
from dpsd.models.frozen import Teacher
from dpsd.models.own import load_own_teacher

_COUNTS = "num_batches_tracked"  # files of weights may lack it

Kind = Literal["own", "plain", "dp_sgd", "ensemble", "federation"]
"""The user's own model; trained here without DP, by DP-SGD, or in shards; or at its clients."""


@dataclass(frozen=True)
class TeacherFolder:
    """A teacher's home. A federation's holds the server's ledger and no teacher."""

    path: Path
    uuid: str
    kind: Kind
    facts: dict[str, Any]
    """What `teacher.json` holds."""

    @property
    def recipe(self) -> dict[str, Any]:
        """How the teacher was trained here; empty for the user's own and for a federation."""
        return self.facts.get("recipe") or {}

    @property
    def shards(self) -> int | None:
        """Number of teachers of an ensemble; None where there is no ensemble."""
        return self.recipe["shards"] if self.kind == "ensemble" else None

    @property
    def unit(self) -> str | None:
        """What reaches one teacher of an ensemble alone: a record or a user; else None."""
        return self.recipe.get("unit")

    @property
    def roster(self) -> str:
        """Random id of the roster of users by which an ensemble was sharded; else empty."""
        return str(self.facts.get("roster") or "")

    def ledger(self, unit: str) -> tuple[Path, str]:
        """The folder of the ledger that releases are charged to, and the UUID of its owner.

        For the units record and user it is the data set's, so that all releases about its records
        compose. For any other unit it is the teacher's own.

        Raises:
            UserError: the data set's folder is missing, or another's.
        """
        dataset = self.dataset()
        return dataset if dataset is not None and unit in ("record", "user") else (
            self.path, self.uuid
        )  # fmt: skip

    def dataset(self) -> tuple[Path, str] | None:
        """The home of the data set that the teacher was trained on, and its UUID; None: unnamed.

        Raises:
            UserError: the data set's folder is missing, or another's.
        """
        known = self.facts.get("dataset")
        if known is None:
            return None
        folder = self.path.parent / known["folder"]
        if not folder.exists():  # its owner may have given it another name
            others = (p.parent for p in folder.parent.glob("*/dataset.json"))
            same = (p for p in others if read_dataset(p)["uuid"] == known["uuid"])
            folder = next(same, folder)
        if read_dataset(folder)["uuid"] != known["uuid"]:
            raise UserError(f"{folder}: is another data set's than {self.path} was trained on")
        return folder, str(known["uuid"])


def read_folder(path: Path) -> TeacherFolder:
    """An existing teacher's folder.

    Raises:
        UserError: it holds no readable `teacher.json`.
    """
    try:
        facts = json.loads((path / "teacher.json").read_text())
        kind = facts.get("kind") or _kind_by_recipe(facts.get("recipe"))
        return TeacherFolder(path, facts["uuid"], kind, facts)
    except (OSError, ValueError, KeyError) as e:
        raise UserError(f"teacher.path: {path} holds no readable teacher.json: {e}") from e


def make_home(folder: Path) -> None:
    """Create the folder where it is missing, and close it to other users."""
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)


def own_folder(config: Config) -> TeacherFolder:
    """The home of the user's own teacher, made where it is missing.

    It lies in a registry below `teacher.root`, under the hash of the teacher's parameters: a copied
    or renamed file of weights finds the same ledger.

    Raises:
        UserError: the teacher does not load, or an older version kept its ledger beside the
            weights.
    """
    t = config.teacher
    identity = own_identity(config, load_own_teacher(t, config.facts))
    folder = t.root / hashlib.blake2b(t.model.encode(), digest_size=8).hexdigest()
    if t.weights is not None:
        folder = t.root / "own" / identity
        _refuse_beside(t.weights, folder)
        _refuse_trained(t.weights, t.root, identity)
    if not (folder / "teacher.json").exists():
        make_home(folder)
        with locked(folder):  # two processes must not give the teacher two names
            if not (folder / "teacher.json").exists():
                write_json(
                    folder / "teacher.json",
                    {"uuid": str(uuid.uuid4()), "kind": "own", "identity": identity,
                     "recipe": None, "accuracy": None},
                )  # fmt: skip
    return read_folder(folder)


def own_identity(config: Config, teacher: Teacher) -> str:
    """What tells the user's own teachers apart, in hex: a hash of the parameters. Private.

    A teacher without a file of weights is known by its import path. Where a program hides its
    parameters, the file is hashed.
    """
    t = config.teacher
    if t.weights is None:
        return t.model
    state = teacher.model.state_dict()
    if not state:
        return hashlib.blake2b(t.weights.read_bytes(), digest_size=16).hexdigest()
    return parameters_hash(state)


def parameters_hash(state: dict[str, Tensor]) -> str:
    """BLAKE2b of a model's parameters and buffers with their names, in hex. Private."""
    digest = hashlib.blake2b(digest_size=16)
    kept = {k: v for k, v in state.items() if not k.endswith(_COUNTS)}
    for name, tensor in sorted(kept.items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def check_identity(config: Config, home: TeacherFolder, teacher: Teacher) -> None:
    """Refuse to charge one teacher's answers to another's ledger, also on resume.

    Raises:
        UserError: the user's own teacher is not the one that the folder belongs to.
    """
    known = home.facts.get("identity")
    if known != own_identity(config, teacher) and known != _older_identity(config):
        raise UserError(
            f"teacher.weights: {config.teacher.weights or config.teacher.model} is not the teacher "
            f"that {home.path} belongs to; accepted: the same parameters"
        )


def as_logits(answers: Tensor) -> Tensor:
    """Logits as they are, votes int64 [B, K] as logits whose softmax is the share of the votes."""
    if answers.is_floating_point():
        return answers
    return (answers / answers.sum(1, keepdim=True)).clamp_min(1e-9).log()


def _kind_by_recipe(recipe: dict[str, Any] | None) -> Kind:
    """The kind of a teacher whose folder was written before folders named it."""
    if recipe is None:
        return "own"
    if recipe.get("shards"):
        return "ensemble"
    return "dp_sgd" if recipe.get("dp") else "plain"


def _older_identity(config: Config) -> str | None:
    """The identity in folders of older versions: the hash of the file."""
    weights = config.teacher.weights
    if weights is None:
        return None
    return hashlib.blake2b(weights.read_bytes(), digest_size=16).hexdigest()


def _refuse_trained(weights: Path, root: Path, identity: str) -> None:
    """Weights that were trained here have a ledger already, and a data set."""
    for path in root.glob("*/teacher.json"):
        home = read_folder(path.parent)
        if home.kind != "own" and home.facts.get("identity") == identity:
            raise UserError(
                f"teacher.weights: {weights} holds the teacher in {home.path}, which was trained "
                f"here; accepted: teacher.path: {home.path} and teacher.weights: null, so that "
                "all its releases count together"
            )


def _refuse_beside(weights: Path, folder: Path) -> None:
    beside = weights.with_name(weights.name + ".dpsd")
    if (beside / "teacher.json").exists():
        raise UserError(
            f"teacher.weights: {weights}: an older version kept this teacher's ledger in {beside}; "
            f"move that folder to {folder}, so that what was released goes on counting"
        )
