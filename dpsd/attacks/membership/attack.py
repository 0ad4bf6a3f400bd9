"""Membership inference on a run: was this row in the teacher's training data?

LiRA and RMIA with shadow models, on four targets: an overfit teacher of a profile in which there is
something to find (the positive control), its student by the run's own mechanism (distillation
form: shadow teacher -> shadow student), the run's teacher and the run's student. Two steps:
`collect` gives scores, `membership_report` turns saved scores into figures.
"""

import json
import time
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from dpsd.attacks.audit.canaries import fewer_answers
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
from dpsd.attacks.membership.report import check_rate, draw_roc, report_of
from dpsd.attacks.profiles import own_teacher
from dpsd.attacks.statistics import Floats
from dpsd.attacks.store import Arrays, attack_folder, kept, load_scores, save_report, save_scores
from dpsd.config import Config
from dpsd.console import Say
from dpsd.data.load import load_data
from dpsd.device import pick_device
from dpsd.errors import UserError
from dpsd.runs.folder import Run
from dpsd.runs.release import Labeller, load_student
from dpsd.teachers.folder import as_logits
from dpsd.teachers.teacher import load_teacher

NAME = "membership"


@dataclass(frozen=True)
class MembershipBudget:
    """What an attack may spend.

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
    "fast": MembershipBudget("cnn-tiny", 500, 8, 4, 4, 6_000),
    "standard": MembershipBudget("cnn-small", 1500, 32, 4, 8, 50_000),
    "full": MembershipBudget("cnn-small", 2500, 32, 4, 32, None),
}


def attack(
    run: Run,
    *,
    budget: str | None = None,
    seed: int = 0,
    out: Path | None = None,
    teacher: Path | None = None,
    data: Path | None = None,
    analyse_only: bool = False,
    fpr: float | None = None,
    say: Say = lambda text: None,
) -> dict[str, Any]:
    """Attack a finished run; writes `scores.npz`, `report.json` and `roc.png`.

    Args:
        run: finished, with data to train shadow models on.
        budget: `fast`, `standard` or `full`; default: the run's `attacks.budget`.
        seed: of rows, models and shadow answers.
        out: folder of the files; default `private/attacks/membership`.
        teacher: the teacher's folder where it has been moved.
        data: another `data.root`.
        analyse_only: read the saved scores and make report and picture again.
        fpr: the false-positive rate that the table is for; default 1 %.
        say: receives progress.

    Returns:
        The report.

    Raises:
        UserError: an unknown budget, an unfinished run, no data, too few or too few for `fpr`,
            missing scores.
    """
    folder = attack_folder(run, NAME) if out is None else out
    folder.mkdir(parents=True, exist_ok=True)
    if not analyse_only:
        name = budget or run.config.attacks.budget
        found = collect(run, name, seed, folder, teacher, data, say, fpr)
        save_scores(folder, *found)
    arrays, facts = load_scores(folder)
    if fpr is not None:
        facts["fpr"] = fpr
    report = report_of(arrays, facts)
    save_report(folder, report)
    draw_roc(arrays, facts, folder / "roc.png")
    return report


def collect(
    run: Run,
    budget: str,
    seed: int,
    folder: Path,
    teacher: Path | None,
    data: Path | None,
    say: Say,
    fpr: float | None = None,
) -> tuple[Arrays, dict[str, Any]]:
    """Train shadow models, score all rows. Arguments as in `attack`.

    What each student says is kept under `folder/parts`, so that a stopped attack goes on.

    Returns:
        For each target and attack `<target>/<attack>` float64 [rows], high speaks for a member,
        beside `<target>/member` and `<target>/canary`, bool [rows]; and the facts of the report.
    """
    if budget not in BUDGETS:
        raise UserError(f"budget: {budget!r}; accepted: {', '.join(BUDGETS)}")
    run.report()
    spend, config = BUDGETS[budget], run.config
    if config.data.name == "none":
        raise UserError("data.name: none; an attack on membership needs the private data")
    if data is not None:
        config = config.model_copy(update={"data": config.data.model_copy(update={"root": data})})
    located, home = own_teacher(run, config, teacher)
    classes = config.facts.classes
    game = make_game(load_data(config.data), classes, shadows=spend.shadows, seed=seed)
    if fpr is not None:
        outside = (~m & ~game.canary for m in (game.inside[0], game.trained))
        check_rate(fpr, max(int(rows.sum()) for rows in outside))
    arrays: Arrays = {}
    facts: dict[str, Any] = {
        "budget": budget, "spend": asdict(spend), "seed": seed, "run": run.id, "classes": classes,
        "fpr": fpr,
        "trained_on": int(game.inside[0].sum()), "targets": {}, "skipped": {}, "seconds": {},
    }  # fmt: skip

    start = time.perf_counter()
    asks = train_teachers(
        game, config, model=spend.model, steps=spend.steps, seed=seed, say=say
    )  # fmt: skip
    teachers = np.stack([logits_on(a, game.rows.images) for a in asks])
    population = np.stack([logits_on(a, game.population.images) for a in asks])
    _score(arrays, facts, "profile teacher", game, teachers, population, spend)
    start = _lap(facts, "teachers", start)

    reason = _no_students(config)
    if reason is not None:
        facts["skipped"]["profile student"] = reason
    else:
        plan = fewer_answers(config, spend.answers)
        facts["student_answers"] = plan.queries_per_round() * plan.loop.rounds
        parts = []
        for m, ask in enumerate(asks[: 1 + spend.students]):
            say(f"student {m + 1} of {1 + spend.students}")
            key = json.dumps([run.id, asdict(spend), seed, m, str(data)])
            make = partial(_student, ask, plan, seed + m, game)
            parts.append(kept(folder / "parts" / f"student-{seed}-{m}.npz", key, make))
        said, beyond = (np.stack([p[name] for p in parts]) for name in ("rows", "population"))
        _score(arrays, facts, "profile student", game, said, beyond, spend)
    start = _lap(facts, "students", start)

    if home is None:
        facts["skipped"]["run teacher"] = "the clients' teachers stay at their homes"
    else:
        own = load_teacher(located, home)
        _run_target(arrays, facts, "run teacher", game, lambda x: as_logits(own(x).cpu()), teachers,
                    population, spend)  # fmt: skip
    predict = Labeller(load_student(run), pick_device(config.device)).predict
    _run_target(arrays, facts, "run student", game, lambda x: predict(x).clamp_min(1e-12).log(),
                teachers, population, spend)  # fmt: skip
    _lap(facts, "run", start)
    return arrays, facts


def _student(ask: Ask, plan: Config, seed: int, game: Game) -> Arrays:
    student = distil_student(ask, plan, seed)
    return {
        "rows": logits_on(student, game.rows.images),
        "population": logits_on(student, game.population.images),
    }


def _score(
    arrays: Arrays,
    facts: dict[str, Any],
    name: str,
    game: Game,
    said: Floats,
    population: Floats,
    spend: MembershipBudget,
) -> None:
    """All attacks on model 0 with the others as shadows."""
    labels, other = game.rows.labels.numpy(), game.population.labels.numpy()
    phi = lira.confidence(said, labels)
    inside = game.inside[1 : len(said)]
    p, q = _own(said, labels), _own(population, other)
    few = slice(1, 1 + spend.references)
    arrays |= {
        f"{name}/lira online": lira.online(phi[0], phi[1:], inside),
        f"{name}/lira offline": lira.offline(phi[0], phi[1:], inside),
        f"{name}/rmia": rmia.score(p[0], p[few], inside[: spend.references], q[0], q[few]),
        f"{name}/confidence": phi[0],
        f"{name}/member": game.inside[0],
        f"{name}/canary": game.canary,
    }
    member = game.inside[0] & ~game.canary
    facts["targets"][name] = {
        "shadows": len(said) - 1,
        "accuracy": accuracy_on(population[0], other),
        "accuracy_on_members": accuracy_on(said[0][member], labels[member]),
    }


def _run_target(
    arrays: Arrays,
    facts: dict[str, Any],
    name: str,
    game: Game,
    ask: Ask,
    teachers: Floats,
    population: Floats,
    spend: MembershipBudget,
) -> None:
    """The offline attacks on a model of the run itself; canaries are none of its training rows."""
    rows = np.flatnonzero(~game.canary)
    images, labels = game.rows.images[rows], game.rows.labels.numpy()[rows]
    said = logits_on(ask, images)
    beyond = logits_on(ask, game.population.images)
    other = game.population.labels.numpy()
    shadows, inside = teachers[1:, rows], game.inside[1:, rows]
    phi = lira.confidence(said, labels)
    p, few = _own(shadows, labels), spend.references
    arrays |= {
        f"{name}/lira offline": lira.offline(phi, lira.confidence(shadows, labels), inside),
        f"{name}/rmia": rmia.score(
            _own(said, labels), p[:few], inside[:few], _own(beyond, other),
            _own(population[1 : 1 + few], other),
        ),
        f"{name}/confidence": phi,
        f"{name}/member": game.trained[rows],
        f"{name}/canary": np.zeros(len(rows), dtype=bool),
    }  # fmt: skip
    member = game.trained[rows]
    facts["targets"][name] = {
        "shadows": len(shadows),
        "accuracy": accuracy_on(said[~member], labels[~member]),
        "accuracy_on_members": accuracy_on(said[member], labels[member]),
    }


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


def _lap(facts: dict[str, Any], name: str, start: float) -> float:
    now = time.perf_counter()
    facts["seconds"][name] = round(now - start, 2)
    return now
