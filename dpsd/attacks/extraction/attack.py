"""Extraction of a run's models: every attack against every defence.

Two steps: `score` attacks and keeps what the clones say, `extraction_report` makes figures of it.
"""

import hashlib
import json
import secrets
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from dpsd.attacks.context import Attack
from dpsd.attacks.extraction.address import address_victim
from dpsd.attacks.extraction.attacks import ATTACKS
from dpsd.attacks.extraction.clone import Holdings
from dpsd.attacks.extraction.matrix import UNDEFENDED, Cell, defences_of, refusal, run_cells
from dpsd.attacks.extraction.pictures import draw_curves
from dpsd.attacks.extraction.pools import MADE, SAME, ground, load_pool, made
from dpsd.attacks.extraction.report import extraction_report
from dpsd.attacks.extraction.rounds import rows_used
from dpsd.attacks.extraction.victim import Victim, own_victim, victim_of
from dpsd.attacks.store import Arrays, load_scores, save_report, save_scores
from dpsd.defences import DEFENCES
from dpsd.errors import UserError
from dpsd.hardening.marks import marked_folder, sha256

NAME = "extraction"


@dataclass(frozen=True)
class ExtractionBudget:
    """What an extraction may spend.

    Attributes:
        model: the clones'; None: the student's own architecture where dpsd knows it.
        ladder: images asked, at which clones are trained.
        passes: of training over the answers.
        least_steps: of training, where the answers are few.
        rows: to measure on, at most.
        attacks, defences: names; empty: all there are.
        made: images of a synthetic pool.
    """

    model: str | None
    ladder: tuple[int, ...]
    passes: int
    least_steps: int
    rows: int
    attacks: tuple[str, ...]
    defences: tuple[str, ...]
    made: int


BUDGETS = {
    "fast": ExtractionBudget(
        "cnn-tiny",
        (100, 300),
        12,
        100,
        1_000,
        (
            "basic",
            "augmented",
            "mixup",
            "active",
            "marich",
            "distillation",
            "spsg",
            "equations",
            "synthetic",
            "neighbours",
        ),
        ("labels",),
        2_000,
    ),
    "standard": ExtractionBudget("cnn-small", (1_000, 5_000), 8, 300, 2_500, (), (), 10_000),
    "full": ExtractionBudget(
        "cnn-small", (1_000, 3_000, 10_000, 30_000), 20, 300, 5_000, (), (), 60_000
    ),
}


@dataclass(frozen=True)
class Choice:
    """What the user chose; empty: as the budget says.

    Attributes:
        targets: student, teacher, or names of marked students; default: the student.
        attacks, defences: names; `none` is always measured too.
        ladder: images asked, rising.
        pool: as `dpsd.attacks.extraction.pools.load_pool` takes it; default: rows of the same
            problem, or synthetic images where there are no data.
        rows: labelled pictures of the same problem, in place of the run's data; see
            `read_labelled`.
        model, weights: a model of one's own in place of the targets, by the teacher keys.
        url, key: the address of the served student on this machine, and an account's key.
    """

    targets: tuple[str, ...] = ()
    attacks: tuple[str, ...] = ()
    defences: tuple[str, ...] = ()
    ladder: tuple[int, ...] = ()
    pool: str | None = None
    rows: Path | None = None
    model: str | None = None
    weights: Path | None = None
    url: str | None = None
    key: str = ""


def attack(context: Attack, choice: Choice | None = None) -> dict[str, Any]:
    """Attack the models of a finished run; writes `scores.npz`, `report.json` and `curves.png`.

    Args:
        context: of the run.
        choice: what to attack, how, and under which defences.

    Returns:
        The report; see `extraction_report`.

    Raises:
        UserError: bad input, an attack that cannot be made against a chosen defence, or no scores
            to analyse.
    """
    folder = context.folder(NAME)
    if not context.analyse_only:
        save_scores(folder, *score(context, choice or Choice(), folder / "parts"))
    report = extraction_report(*load_scores(folder))
    save_report(folder, report)
    draw_curves(report, folder / "curves.png")
    return report


def score(context: Attack, choice: Choice, folder: Path) -> tuple[Arrays, dict[str, Any]]:
    """Run all cells. Arguments and errors as in `attack`; `folder` keeps finished cells.

    Returns:
        The arrays and facts of `extraction_report`.
    """
    spend = context.spend(BUDGETS)
    context.run.report()  # refuses unfinished runs
    config = context.config
    ladder = checked_ladder(choice.ladder or spend.ladder)
    attacks = choice.attacks or spend.attacks or tuple(ATTACKS)
    defences = _defences(choice, spend)
    _check_address(choice)
    victims = [_served(v, context, choice) for v in _victims(context, choice)]
    held = rows_used(max(ladder))
    rows = ground(config, spend.rows, choice.rows, held=held)
    pool = load_pool(
        choice.pool or (MADE if rows.pool is None else SAME), config, rows.pool,
        max(spend.made, max(ladder)), context.seed, held=held,
    )  # fmt: skip
    measured = rows.measured
    images = made(config, spend.rows, context.seed + 1) if measured is None else measured.images[:]
    labels = np.zeros(0, np.int64) if measured is None else measured.labels.numpy()
    model = spend.model or config.student.model
    holdings = Holdings(
        pool.images, ladder, model, passes=spend.passes, least_steps=spend.least_steps,
        say=context.say,
    )  # fmt: skip
    cells = [Cell(v.name, a, d, context.seed) for v in victims for d in defences for a in attacks]
    _refuse(cells, victims, choice)
    identity = json.dumps([
        context.run.id, choice.model, _weights(context, choice), asdict(spend), ladder, model,
        _pixels(pool.images), _pixels(images), context.seed,
        None if choice.url is None else secrets.token_hex(8),  # who answers there may change
    ])  # fmt: skip
    arrays = {"labels": labels} | run_cells(
        cells, victims, holdings, images, folder=folder, identity=identity, say=context.say
    )
    facts = {
        "budget": context.budget_name, "run": context.run.id, "seed": context.seed,
        "ladder": list(ladder), "model": model, "pool": pool.what, "rows": len(images),
        "labelled": measured is not None, "defences": list(defences), "url": choice.url,
        "targets": [v.name for v in victims], "cells": [asdict(c) for c in cells],
    }  # fmt: skip
    return arrays, facts


def _check_address(choice: Choice) -> None:
    """Refuse an address beside targets that it does not serve."""
    if choice.url is not None and (len(choice.targets) > 1 or "teacher" in choice.targets):
        raise UserError(
            f"target: {', '.join(choice.targets)} with --url; accepted: the one student that is "
            "served there"
        )


def _weights(context: Attack, choice: Choice) -> list[str]:
    """Hashes of the weight files that the user named; those of the run follow from its id."""
    changed = [marked_folder(context.run, t) / "student.safetensors" for t in choice.targets]
    named = [choice.weights] if choice.weights is not None else []
    return [sha256(path) for path in (*changed, *named) if path.is_file()]


def _pixels(images: Tensor) -> str:
    """A hash of uint8 images."""
    return hashlib.blake2b(images.contiguous().numpy().data, digest_size=16).hexdigest()


def checked_ladder(ladder: Sequence[int]) -> tuple[int, ...]:
    """The ladder, rising and without doubles.

    Raises:
        UserError: a number below 10.
    """
    if min(ladder) < 10:
        raise UserError(f"budget: {min(ladder)}; accepted: from 10 asked images")
    return tuple(sorted(set(ladder)))


def _defences(choice: Choice, spend: ExtractionBudget) -> tuple[str, ...]:
    if choice.url is not None and choice.defences:
        raise UserError("defence: with --url the service's own are on; accepted: none")
    named = choice.defences or (() if choice.url else spend.defences or tuple(DEFENCES))
    for text in named:
        defences_of(text)
    return tuple(dict.fromkeys((UNDEFENDED, *named)))


def _victims(context: Attack, choice: Choice) -> list[Victim]:
    if choice.model is not None or choice.weights is not None:
        return [own_victim(context.config, choice.model, choice.weights)]
    return [victim_of(context, target) for target in choice.targets or ("student",)]


def _served(victim: Victim, context: Attack, choice: Choice) -> Victim:
    """The victim as it is asked: in this process, or at the address that serves it."""
    if choice.url is None:
        return victim
    far = address_victim(choice.url, choice.key, context.config.facts)
    return replace(victim, far=far.ask, labels_only=far.labels_only)


def _refuse(cells: Sequence[Cell], victims: Sequence[Victim], choice: Choice) -> None:
    """Refuse what the user chose by name and cannot work."""
    by_name = {v.name: v for v in victims}
    for cell in cells:
        why = refusal(cell, by_name[cell.target])
        chosen = cell.attack in choice.attacks and cell.defence in (*choice.defences, UNDEFENDED)
        if why and chosen:
            raise UserError(f"attack: {why}")
