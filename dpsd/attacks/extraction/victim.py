"""Who is copied: a run's student or teacher, a model of one's own, or an address on this machine.

Only the side that measures holds a `Victim`. An attack holds an `Endpoint`.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from dpsd.attacks.context import Attack
from dpsd.attacks.extraction.endpoint import Ask
from dpsd.config import Config, PublicFacts
from dpsd.config.sections import TeacherConfig
from dpsd.device import pick_device
from dpsd.errors import UserError
from dpsd.evaluation.evaluate import ask_teacher
from dpsd.hardening.marks import marked_folder
from dpsd.models.own import load_own_teacher
from dpsd.runs.release import Labeller, load_student, read_student
from dpsd.teachers.folder import as_logits

TARGETS = ("student", "teacher")


@dataclass(frozen=True)
class Victim:
    """A model as its owner sees it.

    Attributes:
        name: for tables.
        ask: probabilities without any defence.
        facts: shape and classes, which an attacker knows.
        architecture: as the card of a release tells it; empty where nothing is told.
        labels_only: it answers with classes, whatever defences are on.
        far: how an attack reaches it where it is served elsewhere; None: by `ask`.
        before: probabilities of the released student, where this is a changed copy of it.
    """

    name: str
    ask: Ask
    facts: PublicFacts
    architecture: str = ""
    labels_only: bool = False
    far: Ask | None = None
    before: Ask | None = None


def victim_of(context: Attack, target: str) -> Victim:
    """The student or the teacher of a run, or a student that a mark or hardening has changed.

    Raises:
        UserError: another target, or no such model.
    """
    config = context.config
    changed = marked_folder(context.run, target) / "student.safetensors"
    if target not in TARGETS:
        if not changed.is_file():
            made = sorted(
                p.parent.name for p in changed.parent.parent.glob("*/student.safetensors")
            )
            raise UserError(f"target: {target!r}; accepted: {', '.join([*TARGETS, *made])}")
        labeller = Labeller(read_student(changed)[0], pick_device(config.device))
        return Victim(
            target, labeller.predict, config.facts, config.student.model,
            before=_student(context).predict,
        )  # fmt: skip
    if target == "student":
        return Victim("student", _student(context).predict, config.facts, config.student.model)
    ask = ask_teacher(config, context.run, context.teacher)
    return Victim("teacher", _probabilities(ask), config.facts, config.teacher.model)


def _student(context: Attack) -> Labeller:
    return Labeller(load_student(context.run), pick_device(context.config.device))


def own_victim(config: Config, model: str | None, weights: Path | None) -> Victim:
    """A model of one's own by the teacher keys: `teacher.model` and `teacher.weights`.

    Raises:
        UserError: as `dpsd.models.own.load_own_teacher` raises it.
    """
    keys = {"weights": weights, "normalize": config.teacher.normalize}
    named = {"model": model} if model is not None else {}
    teacher = load_own_teacher(TeacherConfig(**keys | named), config.facts)  # type: ignore[arg-type]
    return Victim("own model", _probabilities(teacher), config.facts, model or "")


def _probabilities(ask: Ask) -> Ask:
    @torch.inference_mode()
    def probabilities(images: Tensor) -> Tensor:
        return as_logits(ask(images).cpu()).float().softmax(1)

    return probabilities
