"""From the scores of an inversion attack to figures with intervals and a verdict.

Only `scores.npz` is read, so the analysis of saved scores can be repeated.
"""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dpsd.attacks.inversion.memorisation import gap, gap_p_value
from dpsd.attacks.inversion.scores import Cell, InversionScores, load_inversion_scores
from dpsd.attacks.statistics import LEVEL, Floats
from dpsd.attacks.store import save_report

BASELINES = ("draws", "untrained", "permuted")
JUDGES = ("network", "neighbours", "both")
_KNOW_NOTHING = ("draws", "untrained")
_UNLIKE = 0.05
_RESAMPLES = 2000

LEAKS, NOTHING = "leaks", "no leak shown"
NO_POWER, NO_CLAIM = "no power", "no claim"


def analyse(folder: Path) -> dict[str, Any]:
    """Turn `scores.npz` of a folder into `report.json` beside it, and return the report.

    Raises:
        UserError: no readable scores.
    """
    result = inversion_report(load_inversion_scores(folder))
    save_report(folder, result)
    return result


def inversion_report(scores: InversionScores) -> dict[str, Any]:
    """The figures: rates, advantages, intervals, memorisation, knowledge, likeness, verdicts.

    The headline is the advantage by both judges at once. It is the share of reconstructions that
    both take for the private class that was searched for, less the largest such share of a baseline
    with the same prior. It speaks of classes, not of records. The memorisation gap speaks of
    records, but only where `pools_alike` holds. Else the gap of a prior or of a model that knows no
    private image is small too, so training and held-out images differ in kind.
    """
    facts = scores.facts
    chance = 1 / len(facts["classes"])
    accuracy = {name: t["accuracy_holdout"] for name, t in facts["targets"].items()}
    judged = facts["judges"]["both"] > 2 * chance
    attacks: dict[str, Any] = {}
    for attack in facts["budget"]["attacks"]:
        cells = {target: c for (a, target), c in scores.cells.items() if a == attack}
        baselines = {name: _hits(cells[name]) for name in BASELINES}
        gaps = {name: _memorisation(cells[name]) for name in BASELINES}
        rows = {name: _row(cells[name], baselines) for name in accuracy if name not in BASELINES}
        power = judged and rows["teacher"]["advantage"]["both"]["interval"][0] > 0
        for name, row in rows.items():
            row["verdict"] = _verdict(row, accuracy[name], chance, power)
        attacks[attack] = {
            "power": bool(power),
            "floors": {n: _rates(baselines[n]) | {"memorisation": gaps[n]} for n in BASELINES},
            "pools_alike": all(gaps[name]["p_value"] >= _UNLIKE for name in _KNOW_NOTHING),
            "targets": rows,
            "cost": facts["costs"][attack],
        }
    best = max(attacks, key=lambda a: attacks[a]["targets"]["teacher"]["advantage"]["both"]
               ["interval"][0])  # fmt: skip
    kept = {k: v for k, v in facts.items() if k != "costs"}
    return {
        "schema_version": 1,
        "kind": "inversion",
        **kept,
        "interval": f"{LEVEL:.0%}, bootstrap over classes and seeds, {_RESAMPLES} resamples",
        "chance": chance,
        "headline_attack": best,
        "headline": {
            name: row["advantage"]["both"] | {"verdict": row["verdict"]}
            for name, row in attacks[best]["targets"].items()
        },
        "attacks": attacks,
        "held_out_likeness": {
            "psnr": float(scores.held_psnr.mean()),
            "ssim": float(scores.held_ssim.mean()),
        },
        "notes": _notes(facts, [name for name, a in attacks.items() if not a["pools_alike"]]),
    }


def advantage(target: Floats, baselines: dict[str, Floats], *, seed: int = 0) -> dict[str, Any]:
    """Rate less the best baseline's, with a class-clustered bootstrap interval.

    Each resample draws classes and seeds with replacement, the same for target and baselines. It
    picks the best baseline anew, so that the interval covers the picking.

    Args:
        target: hit rates [K, S] by class and seed.
        baselines: the same of each baseline.
        seed: of the resampling.

    Returns:
        `value`, `interval` [low, high] and `floor`, the name of the best.
    """
    rng = np.random.default_rng(seed)
    classes, seeds = target.shape
    c = rng.integers(classes, size=(_RESAMPLES, classes))
    s = rng.integers(seeds, size=(_RESAMPLES, seeds))

    def resampled(rates: Floats) -> Floats:
        return np.asarray(rates[c[:, :, None], s[:, None, :]].mean((1, 2)))

    best = max(baselines, key=lambda name: float(baselines[name].mean()))
    drawn = resampled(target) - np.max([resampled(f) for f in baselines.values()], axis=0)
    return {
        "value": float(target.mean() - baselines[best].mean()),
        "interval": _quantiles(drawn),
        "floor": best,
    }


def _verdict(row: dict[str, Any], accuracy: float, chance: float, power: bool) -> str:
    if accuracy < 2 * chance:
        return NO_CLAIM
    if not power:
        return NO_POWER
    return LEAKS if row["advantage"]["both"]["interval"][0] > 0 else NOTHING


def _row(cell: Cell, baselines: dict[str, dict[str, Floats]]) -> dict[str, Any]:
    hits = _hits(cell)
    knowledge = cell.knowledge.astype(np.float64).T
    return {
        "rates": _rates(hits),
        "advantage": {
            judge: advantage(hits[judge], {n: f[judge] for n, f in baselines.items()})
            for judge in JUDGES
        },
        "confidence": float(cell.confidence.mean()),
        "memorisation": _memorisation(cell),
        "knowledge": {"accuracy": float(knowledge.mean()), "interval": _interval(knowledge)},
        "likeness": {"psnr": float(cell.psnr.mean()), "ssim": float(cell.ssim.mean())},
        "seconds": float(cell.seconds),
    }


def _memorisation(cell: Cell) -> dict[str, float]:
    distances = cell.distances.astype(np.float64)
    mean, gaps = gap(distances, cell.labels)
    return {
        "gap": mean,
        "nearer_to_training": float((gaps < 0).mean()),
        "p_value": gap_p_value(distances, cell.labels),
    }


def _hits(cell: Cell) -> dict[str, Floats]:
    """Hit rates [K, S] of each judge and of both at once."""
    first, second = cell.network == cell.labels, cell.neighbours == cell.labels
    classes, seeds = np.unique(cell.labels), np.unique(cell.seeds)

    def by_class(hit: NDArray[np.bool_]) -> Floats:
        return np.array([[hit[(cell.labels == c) & (cell.seeds == s)].mean() for s in seeds]
                         for c in classes])  # fmt: skip

    return dict(zip(JUDGES, map(by_class, (first, second, first & second)), strict=True))


def _rates(hits: dict[str, Floats]) -> dict[str, Any]:
    return {judge: {"rate": float(h.mean()), "interval": _interval(h)} for judge, h in hits.items()}


def _interval(rates: Floats, seed: int = 0) -> list[float]:
    """Bootstrap of the mean over classes and seeds, [K, S]."""
    zero = {"": np.zeros_like(rates)}
    interval: list[float] = advantage(rates, zero, seed=seed)["interval"]
    return interval


def _quantiles(drawn: Floats) -> list[float]:
    low, high = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return [float(low), float(high)]


def _notes(facts: dict[str, Any], unlike: list[str]) -> list[str]:
    notes = [
        "white-box attacks: the attacker holds the model, not its answers alone",
        "the headline is about classes; only the memorisation gap is about records",
    ]
    if any(name.startswith("student of ") for name in facts["targets"]):
        notes.append("the control is stopped at the accuracy of the run's own student, not others'")
    if len(facts["classes"]) < 10:
        notes.append(
            f"{len(facts['classes'])} classes are few clusters: intervals from a bootstrap over "
            "them are rather too narrow"
        )
    if facts["budget"]["seeds"] < 5:
        notes.append(f"{facts['budget']['seeds']} seeds; a result to cite needs 5 (--full)")
    if unlike:
        notes.append(
            f"{', '.join(unlike)}: the gap p of a prior or model that knows no private image is "
            f"below {_UNLIKE}, so training and held-out images differ in kind and no gap p of "
            "these attacks speaks of records"
        )
    if facts["judges"]["measured_on"] == "train":
        notes.append(
            "there are no test rows: judges are measured on the teacher's training rows, which "
            "they never saw"
        )
    return notes
