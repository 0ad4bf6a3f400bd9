"""The models that a claim is about: whatever can be opened and asked."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from dpsd.config import PublicFacts
from dpsd.config.sections import TeacherConfig
from dpsd.errors import UserError
from dpsd.hardening.marks import sha256
from dpsd.models.own import load_own_teacher
from dpsd.runs.release import read_student, release_folder


@dataclass(frozen=True)
class Suspect:
    """A model and what it was opened from.

    Attributes:
        model: float images [B, C, H, W] from 0 to 1 in, logits [B, K] out; frozen.
        source: path or name, for the evidence.
        sha256: of the file with its weights.
    """

    model: nn.Module
    source: str
    sha256: str


def open_suspect(path: Path, facts: PublicFacts) -> Suspect:
    """The student of a run, of a release, or of a safetensors file in the same format.

    Raises:
        UserError: no student is there, or one for other images or classes.
    """
    file = path if path.is_file() else release_folder(path) / "student.safetensors"
    model, found = read_student(file)
    shape, classes = tuple(found["shape"]), int(found["classes"])
    if (shape, classes) != (facts.shape, facts.classes):
        raise UserError(
            f"{path}: takes images {list(shape)} of {classes} classes; accepted: "
            f"{list(facts.shape)} and {facts.classes}, as the run's student"
        )
    return Suspect(model, str(path), sha256(file))


def open_own_suspect(name: str, weights: Path, facts: PublicFacts) -> Suspect:
    """A model of any kind that a teacher may be of, by `teacher.model` and `teacher.weights`.

    Raises:
        UserError: the weights cannot be read or do not fit, or other images or classes.
    """
    teacher = load_own_teacher(TeacherConfig(model=name, weights=weights), facts)
    return Suspect(_FromZeroToOne(teacher), f"{name} {weights}", sha256(weights))


def open_suspects(paths: Sequence[Path], facts: PublicFacts) -> list[Suspect]:
    """As `open_suspect`, several."""
    return [open_suspect(path, facts) for path in paths]


class _FromZeroToOne(nn.Module):
    """A model that takes uint8 images, behind the interface of a student."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.place = nn.Parameter(torch.zeros(0), requires_grad=False)  # where callers look

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.model((x * 255).round().to(torch.uint8))
        return logits
