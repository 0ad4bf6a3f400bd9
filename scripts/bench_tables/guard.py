"""The guard on simulated traffic about MNIST: false alarms of honest accounts, attacks detected.

The victim is that of the extraction cells, trained on the first half of the training rows. Honest
accounts ask about rows of the second half: 10,000 rows calibrate the guard, the next 10,000 are
what held-out honest accounts ask about, the rest is what an attacker with honest data has. The
strengths of alterations are those of `dpsd.serving.calibration.altered`.
"""

import json
import time
from argparse import Namespace
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import beta
from torch import Tensor

from bench_tables.extraction import cells, make_problem
from bench_tables.jobs import RESULTS, Job
from dpsd.attacks.extraction.attacks import ATTACKS
from dpsd.attacks.extraction.clone import Holdings, predict
from dpsd.attacks.extraction.endpoint import Service
from dpsd.attacks.extraction.matrix import KEY
from dpsd.attacks.extraction.pools import made, reshaped
from dpsd.attacks.extraction.victim import Victim
from dpsd.config import parse_config
from dpsd.data.load import load_data
from dpsd.data.rows import Images
from dpsd.errors import UserError
from dpsd.guard.detection.calibrate import Stream, all_windows, calibrate, highest
from dpsd.guard.detection.evidence import Evidence
from dpsd.guard.detection.reference import Reference
from dpsd.guard.detection.reference_file import read_reference, save_reference
from dpsd.guard.detection.sketch import WINDOW
from dpsd.guard.detection.traffic import GROUPS, honest_accounts
from dpsd.serving.calibration import Questions, bank_and_outliers, questions
from dpsd.serving.exposure import SOURCES
from dpsd.serving.predictor import featured

GUARD = RESULTS / "guard"
ALPHA, CALIBRATION, HELD_OUT, MEDIAN = 3e-4, 12_000, 20_000, 120
_ROWS = 10_000
LADDER = (100, 200, 400, 800, 1600)
POOLS: dict[str, tuple[str, ...]] = {
    "fashion": ("basic", "augmented", "mixup", "boundary", "active", "marich", "distillation",
                "random_erasing", "neighbours"),
    "strokes": ("basic", "augmented", "mixup", "boundary", "active", "marich", "distillation",
                "random_erasing", "neighbours", "synthetic"),
    "honest": ("basic", "distillation", "active", "augmented", "mixup"),
}  # fmt: skip
"""Where an attacker's questions come from -> attacks. `honest`: rows like those of honest users."""
SEEDS = (1, *range(3, 19))
"""With seed 2 the attacker's strokes would be those that the calibration was shown."""
REACHING = {
    "strokes": ("active", "marich", "distillation", "random_erasing", "neighbours", "synthetic"),
}
"""The attacks that later seeds run: those whose clones reached 90 % with the first seed."""


@dataclass(frozen=True)
class Setting:
    """The victim and the rows of the problem."""

    victim: Victim
    model: torch.nn.Module
    pool: Tensor
    test: Any


def jobs(args: Namespace) -> Iterator[Job]:
    """False alarms, then each pool and seed of attacks."""
    facts = {"alpha": ALPHA, "calibration": CALIBRATION, "held_out": HELD_OUT, "median": MEDIAN}
    if "honest" in args.cell or "*" in args.cell:
        yield Job(GUARD / "honest.json", {"cell": "honest"} | facts, partial(false_alarms, args))
    for pool, attacks in POOLS.items():
        for seed in args.seed or SEEDS:
            attacks = attacks if seed == SEEDS[0] else REACHING.get(pool, attacks)
            if f"attacks-{pool}" in args.cell or "*" in args.cell:
                yield Job(GUARD / f"attacks-{pool}-seed{seed}.json",
                          {"cell": f"attacks-{pool}", "seed": seed, "ladder": list(LADDER)} | facts,
                          partial(attacked, args, pool, attacks, seed))  # fmt: skip


@cache
def setting(teachers: Path) -> Setting:
    """The victim of the extraction cells, and the second half of the training rows."""
    cell = cells()["mnist-half-none"] | {"rows": 2_500}
    problem = make_problem(cell, 0, teachers)
    model = problem.victim.ask.__self__.model  # the labeller's
    return Setting(problem.victim, model, problem.pool, problem.test)


@cache
def asked(teachers: Path, part: int) -> Questions:
    """What honest accounts may ask, of one of two disjoint parts of the rows."""
    given = setting(teachers)
    return questions(featured(given.model), given.pool[part * _ROWS : (part + 1) * _ROWS])


def reference(args: Namespace, unseen: str = "") -> Reference:
    """The calibrated guard, which was not shown images of `unseen`; kept with the runs."""
    name = f"reference-{CALIBRATION // args.shrink}{unseen and '-without-'}{unseen}"
    path = args.runs / f"{name}.npz"
    if not path.exists():
        given = setting(args.teachers)
        shown = [source for source in SOURCES if source != unseen]
        seen, outliers = bank_and_outliers(featured(given.model), given.pool[:_ROWS], 2, shown)
        streams = honest_accounts(seen.bank, CALIBRATION // args.shrink, median=MEDIAN, seed=1)
        found = calibrate(seen.features, seen.answers, None, [s for _, s in streams],
                          alpha=ALPHA * args.shrink, seed=2, outliers=outliers)  # fmt: skip
        save_reference(found, path)
    return read_reference(path)


def false_alarms(args: Namespace) -> dict[str, Any]:
    """Alarms of honest accounts over a month, by kind of account."""
    start = time.perf_counter()
    guard = reference(args)
    calibrated = time.perf_counter() - start
    seen = asked(args.teachers, 1)
    bank = guard.benign.rows(seen.features, seen.answers)
    start, found = time.perf_counter(), []
    for group, stream in honest_accounts(seen.bank, HELD_OUT // args.shrink, median=MEDIAN, seed=3):
        values = all_windows(guard.benign, bank, stream)
        found.append((group, len(stream.rows), highest(guard, values) >= guard.level))
    groups = {g: [alarm for group, _, alarm in found if group == g] for g in GROUPS}
    return {
        "questions": sum(n for _, n, _ in found), "level": guard.level, "discount": guard.discount,
        "all": rate([alarm for _, _, alarm in found]),
        "groups": {g: rate(alarms) for g, alarms in groups.items()},
        "calibration_seconds": calibrated, "seconds": time.perf_counter() - start,
    }  # fmt: skip


def rate(alarms: list[bool]) -> dict[str, float]:
    """Alarms, accounts, rate and Clopper and Pearson's upper bound at 97.5 %."""
    k, n = int(sum(alarms)), len(alarms)
    upper = 1.0 if k == n else float(beta.ppf(0.975, k + 1, n - k))
    return {"alarms": k, "accounts": n, "rate": k / n, "upper": upper}


def attacked(args: Namespace, pool: str, attacks: tuple[str, ...], seed: int) -> dict[str, Any]:
    """Each attack undefended, and where the guard would have raised its alarm."""
    guard, given = reference(args), setting(args.teachers)
    images = _pool(pool, given, seed)
    victim = float((predict(given.model, given.test.images[:]).argmax(1)
                    == given.test.labels).double().mean())  # fmt: skip
    before = _curves(GUARD / f"attacks-{pool}-seed{seed}.json")
    runs = [run(guard, given, images, attack, seed, victim, before.get(attack))
            for attack in attacks]  # fmt: skip
    return {"victim": victim, "pool": pool, "runs": runs}


def _curves(path: Path) -> dict[str, list[dict[str, Any]]]:
    """Attack -> its undefended clone at each rung, of an earlier measurement with the same seed.

    No guard changes it. Where the alarm comes within the first rung, the others are not repeated.
    """
    found = json.loads(path.read_text()) if path.exists() else {}
    same = found.get("ladder") == list(LADDER)
    return {r["attack"]: r["steps"] for r in found.get("runs", []) if same and "steps" in r}


def run(
    guard: Reference, given: Setting, pool: Tensor, attack: str, seed: int, victim: float,
    before: list[dict[str, Any]] | None = None,
) -> dict[str, Any]:  # fmt: skip
    """One attack: the clone at each rung up to the first at 90 %, and questions until the alarm.

    `before`: the clone's rungs, where they are known.
    """
    start, asked_images, steps = time.perf_counter(), [], []
    ladder = tuple(n for n in LADDER if n <= len(pool))

    def ask(images: Images) -> Tensor:
        asked_images.append(images.clone())
        return given.victim.ask(images)

    holdings = Holdings(pool, ladder, "cnn-small", passes=8, augment="shift", seed=seed)
    service = Service(ask, given.victim.facts, budget=max(ladder), key=KEY)
    try:
        with service as endpoint:
            for clone in ATTACKS[attack].run(endpoint, holdings):
                said = predict(clone.model, given.test.images[:]).argmax(1)
                right = float((said == given.test.labels).double().mean())
                steps.append({"asked": service.asked, "accuracy": right})
                if (
                    before
                    and before[0] == steps[0]
                    and alarm(guard, given, torch.cat(asked_images))
                ):
                    steps = before
                    break
                if right >= 0.9 * victim:
                    break
    except UserError as e:
        return {"attack": attack, "refused": str(e)}
    reached = next((s["asked"] for s in steps if s["accuracy"] >= 0.9 * victim), None)
    below = max((s["asked"] for s in steps if reached is None or s["asked"] < reached), default=0)
    return {
        "attack": attack, "steps": steps, "reached_90": reached, "last_below_90": below,
        "alarm_at": alarm(guard, given, torch.cat(asked_images)),
        "seconds": time.perf_counter() - start,
    }  # fmt: skip


def alarm(guard: Reference, given: Setting, images: Tensor) -> int | None:
    """Questions until the alarm, of one account that asks in batches of 16 every two seconds."""
    answers, features = [], []
    ask = featured(given.model)
    for part in images.split(512):
        said, seen = ask(part)
        answers.append(said.numpy())
        features.append(seen.numpy())
    rows = guard.benign.rows(np.concatenate(features), np.concatenate(answers))
    at = 9e5 + np.arange(len(images)) // 16 * 2.0
    values = all_windows(guard.benign, rows, Stream(np.arange(len(images)), at))
    evidence = Evidence()
    for i, row in enumerate(() if values is None else values):
        evidence = guard.after(evidence, row)
        if evidence.value >= guard.level:
            return (i + 1) * WINDOW
    return None


def _pool(name: str, given: Setting, seed: int) -> Tensor:
    """An attacker's images, in an order of the seed."""
    shape = given.victim.facts.shape
    if name == "strokes":
        return strokes(max(LADDER), seed)
    images = given.pool[2 * _ROWS :]
    if name == "fashion":
        other = parse_config({"data": {"name": "fashion_mnist"}, "privacy": {"mechanism": "none"}})
        images = reshaped(load_data(other.data).train.images[:10_000], shape)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
    return images[order[: 2 * max(LADDER)]]


def strokes(count: int, seed: int) -> Tensor:
    """An attacker's images: procedural ones, uint8 [count, C, H, W]."""
    prior = parse_config({"data": {"name": "mnist"}, "seed": seed,
                          "generator": {"shares": {"strokes": 1}},
                          "privacy": {"mechanism": "none"}})  # fmt: skip
    return made(prior, count, seed)
