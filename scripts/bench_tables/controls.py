"""The two controls of an honest benchmark: teachers that must lead the student elsewhere.

A student that reaches the plain teacher's accuracy with either of them has learned from something
else than the answers. The controls go through the same oracle, plan and ledger as any teacher.
"""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from dpsd.config import Config
from dpsd.data.load import load_data
from dpsd.privacy.ledger import Ledger
from dpsd.privacy.oracle import Oracle
from dpsd.runs.folder import Run
from dpsd.runs.release import load_student
from dpsd.teachers.teacher import ensure_teacher, load_teacher
from dpsd.transcription.transcribe import transcribe

Ask = Callable[[Tensor], Tensor]
CONTROLS = ("permuted", "uniform")


def permutation(classes: int) -> Tensor:
    """A fixed order of the classes that leaves none in its place, int64 [K]."""
    rng = torch.Generator().manual_seed(20260119)
    order = torch.randperm(classes, generator=rng)
    while bool((order == torch.arange(classes)).any()):
        order = torch.randperm(classes, generator=rng)
    return order


def controlled(ask: Ask, control: str, classes: int, seed: int) -> Ask:
    """A teacher's stand-in: its classes permuted, or answers that do not look at the image."""
    if control == "permuted":
        order = permutation(classes)
        return lambda images: ask(images)[:, order]
    rng = torch.Generator().manual_seed(seed)
    return lambda images: torch.randn(len(images), classes, generator=rng)


def transcribe_control(config: Config, control: str, out: Path) -> Run:
    """A run whose teacher is the control; answers are charged to the teacher's ledger as usual."""
    home = ensure_teacher(config, print)
    ask = load_teacher(config, home)

    def open_oracle(plan, run, _):
        asked = controlled(ask, control, plan.facts.classes, config.seed)
        ledger = Ledger(run.teacher_folder, run.teacher)
        return Oracle(asked, plan, ledger, run.id, run.started, run.bank, config.seed)

    return transcribe(
        config, out=out, data_is_public=True, say=print, open_oracle=open_oracle, home=home
    )


def undone_accuracy(run: Run) -> float:
    """Share of test rows that the student gets right once the permutation is undone."""
    test, model = load_data(run.config.data).test, load_student(run)
    with torch.inference_mode():
        found = torch.cat([model(x / 255).argmax(1) for x in test.images.split(512)])
    order = permutation(model(test.images[:1] / 255).shape[1])
    return float((order[found] == test.labels).double().mean())
