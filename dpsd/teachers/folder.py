"""A teacher's home: `teacher.json`, `weights.safetensors`, `ledger.jsonl`. All private."""

import hashlib
import json
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from dpsd.config import Config
from dpsd.data.identity import read_dataset
from dpsd.errors import UserError
from dpsd.files import locked, write_json
from dpsd.models.own import load_own_teacher

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

    def ledger(self, unit: str) -> tuple[Path, str]:
        """The folder of the ledger that releases are charged to, and the UUID of its owner.

        For the units record and user it is the data set's, so that all releases about its records
        compose. For any other unit it is the teacher's own.

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

    It lies beside the weights. A teacher without weights has one below `teacher.root`.

    Raises:
        UserError: the teacher does not load, or the folder belongs to another teacher.
    """
    t, identity = config.teacher, _identity(config)
    if t.weights is None:
        folder = t.root / hashlib.blake2b(t.model.encode(), digest_size=8).hexdigest()
    else:
        folder = t.weights.with_name(t.weights.name + ".dpsd")
    if not (folder / "teacher.json").exists():
        load_own_teacher(t, config.facts)  # a file that does not load gets no home
        make_home(folder)
        with locked(folder):  # two processes must not give the teacher two names
            if not (folder / "teacher.json").exists():
                write_json(
                    folder / "teacher.json",
                    {"uuid": str(uuid.uuid4()), "kind": "own", "identity": identity,
                     "recipe": None, "accuracy": None},
                )  # fmt: skip
    home = read_folder(folder)
    check_identity(config, home)
    return home


def check_identity(config: Config, home: TeacherFolder) -> None:
    """Refuse to charge one teacher's answers to another's ledger, also on resume.

    Raises:
        UserError: the user's own teacher is not the one that the folder belongs to.
    """
    if home.facts.get("identity") != _identity(config):
        raise UserError(
            f"teacher.weights: {config.teacher.weights or config.teacher.model} is not the teacher "
            f"that {home.path} belongs to; give new weights another file name, so that each "
            "teacher keeps its own ledger"
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


def _identity(config: Config) -> str:
    """What tells the user's own teachers apart: the hash of the weights, or the import path."""
    t = config.teacher
    if t.weights is None:
        return t.model
    if not t.weights.is_file():
        raise UserError(f"teacher.weights: {t.weights} is no file")
    return hashlib.blake2b(t.weights.read_bytes(), digest_size=16).hexdigest()
