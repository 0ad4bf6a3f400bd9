"""Membership inference on a run: was this row in the teacher's training data?

LiRA and RMIA with shadow models, on four targets: an overfit teacher of a profile in which there is
something to find (the positive control); that teacher's student by the run's own mechanism
(distillation form: shadow teacher -> shadow student); the run's teacher; the run's student.

Two steps: `score_targets` gives scores, `membership_report` turns saved scores into figures.
"""

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dpsd.attacks.audit.canaries import fewer_answers
from dpsd.attacks.context import Attack, lap
from dpsd.attacks.membership import lira, rmia
from dpsd.attacks.membership.game import (
    Ask,
    Game,
    accuracy_on,
    distil_student,
    logits_on,
    make_game,
    train_teachers,
)
from dpsd.attacks.membership.pictures import draw_roc
from dpsd.attacks.membership.report import check_rate, membership_report
from dpsd.attacks.membership.thief import Thief
from dpsd.attacks.statistics import Floats
from dpsd.attacks.store import Arrays, kept, load_scores, save_report, save_scores
from dpsd.config import Config
from dpsd.console import track
from dpsd.data.load import load_data
from dpsd.device import pick_device
from dpsd.errors import UserError
from dpsd.runs.release import Labeller, load_student
from dpsd.teachers.folder import as_logits
from dpsd.teachers.teacher import load_teacher

NAME = "membership"


@dataclass(frozen=True)
class MembershipBudget:
    """What an attack on membership may spend.

    Attributes:
        model, steps: of the overfit teachers.
        shadows: teachers for LiRA; RMIA takes the first `references` of them.
        references: of RMIA.
        students: shadow students, of the first shadow teachers.
        answers: of each shadow student at most; None: as many as the run.
    """

    model: str
    steps: int
    shadows: int
    references: int
    students: int
    answers: int | None


BUDGETS = {
    "fast": MembershipBudget("cnn-tiny", 500, 8, 4, 4, 5_000),
    "standard": MembershipBudget("cnn-small", 1500, 32, 4, 8, 50_000),
    "full": MembershipBudget("cnn-small", 2500, 32, 4, 32, None),
}


@dataclass(frozen=True)
class Shadows:
    """What the profile's models say: model 0 is the target, the others are shadow models.

    Attributes:
        game: which model was trained on which rows.
        logits: float64 [1 + S, N, K] of the game's rows.
        population: float64 [1 + S, Z, K] of rows that no model was trained on.
        references: so many of the shadow models are RMIA's.
    """

    game: Game
    logits: Floats
    population: Floats
    references: int


def attack(
    context: Attack, *, fpr: float | None = None, clones: int | None = None
) -> dict[str, Any]:
    """Attack a finished run; writes `scores.npz`, `report.json` and `roc.png`.

    Args:
        context: of a run with data to train shadow models on.
        fpr: the false-positive rate that the table is for; default 1 %.
        clones: attack copies of the profile's teacher, of the run's teacher and of its student too,
            made by so many questions about rows of the same problem; None: no copies.

    Returns:
        The report.

    Raises:
        UserError: an unknown budget, an unfinished run, no data, too few or too few for `fpr`,
            missing scores.
    """
    folder = context.folder(NAME)
    if not context.analyse_only:
        save_scores(folder, *score_targets(context, folder, fpr, clones))
    arrays, facts = load_scores(folder)
    if fpr is not None:
        facts["fpr"] = fpr
    report = membership_report(arrays, facts)
    save_report(folder, report)
    draw_roc(arrays, facts, folder / "roc.png")
    return report


def score_targets(
    context: Attack, folder: Path, fpr: float | None = None, clones: int | None = None
) -> tuple[Arrays, dict[str, Any]]:
    """Train shadow models and score all rows. Arguments and errors as in `attack`.

    A stopped attack resumes: `folder/parts` keeps what each finished student says.

    Returns:
        For each target and attack `<target>/<attack>` float64 [rows], high speaks for a member,
        beside `<target>/member` and `<target>/canary`, bool [rows]; and the facts of the report.
    """
    spend = context.spend(BUDGETS)
    context.run.report()  # refuses unfinished runs
    config, seed = context.config, context.seed
    if config.data.name == "none":
        raise UserError("data.name: none; an attack on membership needs the private data")
    located, home = context.find_teacher()
    classes = config.facts.classes
    game = make_game(load_data(config.data), classes, shadows=spend.shadows, seed=seed)
    if fpr is not None:
        outside = (~m & ~game.canary for m in (game.inside[0], game.trained))
        check_rate(fpr, max(int(rows.sum()) for rows in outside))
    arrays: Arrays = {}
    facts: dict[str, Any] = {
        "budget": context.budget_name, "spend": asdict(spend), "seed": seed,
        "run": context.run.id, "classes": classes, "fpr": fpr,
        "trained_on": int(game.inside[0].sum()), "targets": {}, "skipped": {}, "seconds": {},
    }  # fmt: skip

    def add(target: str, scores: Arrays, known: dict[str, Any]) -> None:
        arrays.update({f"{target}/{name}": values for name, values in scores.items()})
        facts["targets"][target] = known

    start = time.perf_counter()
    asks = train_teachers(
        game, config, model=spend.model, steps=spend.steps, seed=seed, say=context.say
    )  # fmt: skip
    teachers = Shadows(
        game,
        np.stack([logits_on(a, game.rows.images) for a in asks]),
        np.stack([logits_on(a, game.population.images) for a in asks]),
        spend.references,
    )
    add("profile teacher", *_score_profile(teachers))
    start = lap(facts, "teachers", start)

    reason = _no_students(config)
    if reason is not None:
        facts["skipped"]["profile student"] = reason
    else:
        plan = fewer_answers(config, spend.answers)
        facts["student_answers"] = plan.answers()
        first = asks[: 1 + spend.students]
        students = _distil_students(context, first, plan, game, spend, folder / "parts")
        add("profile student", *_score_profile(students))
    start = lap(facts, "students", start)

    thief = Thief(context, clones or 0)
    if clones is not None:
        said = thief.said(asks[: 1 + spend.students], game, folder / "parts")
        add("clone of profile teacher", *_score_profile(Shadows(game, *said, spend.references)))
        facts["clone_questions"] = clones
        start = lap(facts, "clones", start)

    models: dict[str, Ask] = {}
    if home is None:
        facts["skipped"]["run teacher"] = "the clients' teachers stay at their homes"
    else:
        own = load_teacher(located, home)
        models["run teacher"] = lambda x: as_logits(own(x).cpu())
    predict = Labeller(load_student(context.run), pick_device(config.device)).predict
    models["run student"] = lambda x: predict(x).clamp_min(1e-12).log()
    if clones is not None:
        models |= {f"clone of {name}": thief.copy(ask) for name, ask in models.items()}
    for name, ask in models.items():
        add(name, *_score_run(ask, teachers))
    lap(facts, "run", start)
    return arrays, facts


def _distil_students(
    context: Attack,
    asks: Sequence[Ask],
    plan: Config,
    game: Game,
    spend: MembershipBudget,
    folder: Path,
) -> Shadows:
    """A student of each teacher; those that the folder holds are read."""
    parts = []
    for m, ask in enumerate(track(asks, "membership: students")):
        key = json.dumps([context.run.id, asdict(spend), context.seed, m, str(context.data)])
        make = partial(_student, ask, plan, context.seed + m, game)
        parts.append(kept(folder / f"student-{context.seed}-{m}.npz", key, make))
    rows, population = (np.stack([p[name] for p in parts]) for name in ("rows", "population"))
    return Shadows(game, rows, population, spend.references)


def _student(ask: Ask, plan: Config, seed: int, game: Game) -> Arrays:
    student = distil_student(ask, plan, seed)
    return {
        "rows": logits_on(student, game.rows.images),
        "population": logits_on(student, game.population.images),
    }


def _score_profile(models: Shadows) -> tuple[Arrays, dict[str, Any]]:
    """All attacks on model 0 with the others as shadows, and how much it knows."""
    game, few = models.game, slice(1, 1 + models.references)
    labels, other = game.rows.labels.numpy(), game.population.labels.numpy()
    phi = lira.confidence(models.logits, labels)
    inside = game.inside[1 : len(phi)]
    p, q = _own(models.logits, labels), _own(models.population, other)
    member = game.inside[0] & ~game.canary
    return {
        "lira online": lira.online(phi[0], phi[1:], inside),
        "lira offline": lira.offline(phi[0], phi[1:], inside),
        "rmia": rmia.score(p[0], p[few], inside[: models.references], q[0], q[few]),
        "confidence": phi[0],
        "member": game.inside[0],
        "canary": game.canary,
    }, {
        "shadows": len(phi) - 1,
        "accuracy": accuracy_on(models.population[0], other),
        "accuracy_on_members": accuracy_on(models.logits[0][member], labels[member]),
    }


def _score_run(ask: Ask, teachers: Shadows) -> tuple[Arrays, dict[str, Any]]:
    """The offline attacks on a model of the run itself; canaries are none of its training rows."""
    game, few = teachers.game, teachers.references
    rows = np.flatnonzero(~game.canary)
    images, labels = game.rows.images[torch.from_numpy(rows)], game.rows.labels.numpy()[rows]
    logits, population = logits_on(ask, images), logits_on(ask, game.population.images)
    other = game.population.labels.numpy()
    shadows, inside = teachers.logits[1:, rows], game.inside[1:, rows]
    phi, member = lira.confidence(logits, labels), game.trained[rows]
    return {
        "lira offline": lira.offline(phi, lira.confidence(shadows, labels), inside),
        "rmia": rmia.score(
            _own(logits, labels), _own(shadows, labels)[:few], inside[:few],
            _own(population, other), _own(teachers.population[1 : 1 + few], other),
        ),
        "confidence": phi,
        "member": member,
        "canary": np.zeros(len(rows), dtype=bool),
    }, {
        "shadows": len(shadows),
        "accuracy": accuracy_on(logits[~member], labels[~member]),
        "accuracy_on_members": accuracy_on(logits[member], labels[member]),
    }  # fmt: skip


def _own(logits: Floats, labels: Any) -> Floats:
    """P(label) of logits [..., N, K] -> [..., N]."""
    phi = lira.confidence(logits, labels)
    return np.asarray(1 / (1 + np.exp(-phi)))


def _no_students(config: Config) -> str | None:
    if config.privacy.route == "ensemble":
        return "one overfit teacher casts no votes of an ensemble; see the run's own student"
    if config.privacy.route == "federated":
        return "one overfit teacher is no federation; see the run's own student"
    if config.privacy.route == "inherited":
        return "an overfit teacher has no DP training to inherit; see the run's own student"
    return None
