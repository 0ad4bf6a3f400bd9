"""A teacher's home: `teacher.json`, `weights.safetensors`, `ledger.jsonl`. All private."""

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from dpsd.config import Config
from dpsd.data.identity import read_dataset
from dpsd.errors import UserError


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


def as_logits(answers: Tensor) -> Tensor:
    """Logits as they are, votes int64 [B, K] as logits whose softmax is the share of the votes."""
    if answers.is_floating_point():
        return answers
    return (answers / answers.sum(1, keepdim=True)).clamp_min(1e-9).log()


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
