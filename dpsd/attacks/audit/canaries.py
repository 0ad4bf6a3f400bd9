"""One run with canaries: slots of the training data, through a teacher and its student.

Each slot holds an image under one of two wrong labels, by its own fair coin (replace-one). The
teacher is trained by the run's recipe, the student is transcribed by the run's plan. Both stay in
the run's private part, with a ledger of their own.
"""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dpsd.attacks.audit.one_run import flip_coins
from dpsd.attacks.audit.pairs import recipe_config
from dpsd.attacks.context import Attack
from dpsd.attacks.store import Arrays
from dpsd.config import Config, parse_config
from dpsd.console import Say
from dpsd.data.load import PrivateData, Split
from dpsd.device import pick_device
from dpsd.errors import UserError
from dpsd.runs.folder import Run
from dpsd.runs.release import Labeller, load_student
from dpsd.teachers.ensemble import train_ensemble
from dpsd.teachers.folder import TeacherFolder, as_logits, read_folder
from dpsd.teachers.teacher import load_teacher, train_teacher
from dpsd.transcription.transcribe import transcribe

_LEAST_SLOTS = 10


def canary_run(
    context: Attack,
    home: TeacherFolder,
    data: PrivateData,
    *,
    slots: int,
    answers: int | None,
    folder: Path,
) -> tuple[Arrays, dict[str, Any]]:
    """Scores of the canaries on a teacher that was trained with them and on its student.

    Args:
        context: of the audit; its seed decides rows, labels and coins, all before training.
        home: the run's teacher, of which the recipe is used.
        data: the private data.
        slots: canaries.
        answers: at most so many, rounded to whole rounds; None: as many as the run's.
        folder: private; training resumes from what it holds already.

    Returns:
        `coins` bool [m], `teacher` and `student` float64 [m], log p(first label) less log p(second
        label); and facts: slots, answers, rows.

    Raises:
        UserError: fewer than three classes, or fewer rows than twice the slots.
    """
    seed, classes = context.seed, context.config.facts.classes
    if classes < 3:
        raise UserError(
            f"data.classes: {classes}; canaries hold two wrong labels, at least 3 are needed"
        )
    slots = min(slots, len(data.train) // 4)
    if slots < _LEAST_SLOTS:
        rows = len(data.train)
        raise UserError(f"canaries: {rows} training rows; at least {4 * _LEAST_SLOTS} are needed")
    rng = np.random.default_rng([seed, 0xCA])
    places = torch.from_numpy(rng.choice(len(data.train), slots, replace=False))
    shift = torch.from_numpy(
        np.stack([1 + rng.permutation(classes - 1)[:2] for _ in range(slots)], 1)
    )
    pair = (data.train.labels[places] + shift) % classes  # two wrong labels each, int64 [2, m]
    coins = flip_coins(slots, rng)
    labels = data.train.labels.clone()
    labels[places] = torch.where(torch.from_numpy(coins), pair[0], pair[1])
    planted = replace(data, train=Split(data.train.images, labels))
    # A root of its own, so that the real data set's ledger is not charged.
    own = {"root": folder, "path": None}
    config = fewer_answers(recipe_config(context.config, home), answers)
    config = config.model_copy(update={"teacher": config.teacher.model_copy(update=own)})
    teacher = _teacher(config, planted, folder / f"teacher-{seed}", context.say)
    run = _student(config, teacher, folder / f"run-{seed}", context.say)
    images = data.train.images[places]
    ask = load_teacher(config, teacher)
    logits = torch.cat([as_logits(ask(x).cpu()) for x in images.split(512)])
    probabilities = Labeller(load_student(run), pick_device(config.device)).predict(images)
    arrays: Arrays = {
        "coins": coins,
        "teacher": _scores(logits.log_softmax(1), pair),
        "student": _scores(probabilities.clamp_min(1e-30).log(), pair),
    }
    return arrays, {"slots": slots, "answers": config.answers(), "training_rows": len(data.train)}


def _scores(log_probabilities: Tensor, pair: Tensor) -> np.ndarray:
    chosen = log_probabilities.double().gather(1, pair.mT)
    return np.asarray((chosen[:, 0] - chosen[:, 1]).numpy(), dtype=np.float64)


def fewer_answers(config: Config, answers: int | None) -> Config:
    """The run's configuration with at most so many answers, in fewer rounds of as many queries."""
    tree = config.model_dump(mode="json")
    queries, rounds = config.queries_per_round(), config.loop.rounds
    if answers is not None and answers < queries * rounds:
        rounds = min(rounds, max(2, answers // queries))
        queries = min(queries, max(1, answers // rounds))
    tree["loop"] |= {"rounds": rounds, "queries_per_round": queries}
    tree["privacy"]["answers"] = None
    return parse_config(tree)


def _teacher(config: Config, data: PrivateData, folder: Path, say: Say) -> TeacherFolder:
    if not (folder / "teacher.json").exists():
        say("one run: training a teacher with canaries")
        if config.teacher.shards is None:
            train_teacher(config, data, folder, lambda text: None)
        else:
            train_ensemble(config, data, folder, lambda text: None)
    return read_folder(folder)


def _student(config: Config, teacher: TeacherFolder, folder: Path, say: Say) -> Run:
    if (folder / "private" / "report.json").exists():
        return Run(folder)
    say("one run: transcribing it")
    if (folder / "private" / "run.json").exists():
        try:
            return transcribe(config, out=folder, resume=True, home=teacher)
        except UserError:  # the run was begun from another place
            shutil.rmtree(folder)
    return transcribe(config, out=folder, home=teacher)
