"""From membership scores to figures: AUC and TPR at low FPR with intervals, and verdicts.

Unit: one record. No figure here is an epsilon; `dpsd audit` gives lower bounds on epsilon.
"""

import math
from typing import Any

import numpy as np
from scipy.stats import betabinom

from dpsd.attacks.statistics import LEVEL, Floats, Mask, auc, clopper_pearson
from dpsd.attacks.store import Arrays
from dpsd.errors import UserError

SCHEMA_VERSION = 1
ATTACKS = ("lira online", "lira offline", "rmia", "confidence")
CONTROL = ("profile teacher", "canaries", "lira online")
POWER_AUC = 0.9
RATES = (0.01, 0.001)
_EXPECTED = 5  # false positives that a rate needs: 500 non-members for 1 %, 5,000 for 0.1 %


def needed(rate: float) -> int:
    """How many non-members a true-positive rate at this false-positive rate needs."""
    return math.ceil(_EXPECTED / rate - 1e-9)


def check_rate(rate: float, non_members: int) -> None:
    """Refuse a false-positive rate that this many non-members cannot show.

    Raises:
        UserError: it is no rate, or needs more non-members; the message says how many.
    """
    if not 0 < rate < 1:
        raise UserError(f"fpr: {rate:g}; accepted: above 0 and below 1")
    if non_members < needed(rate):
        raise UserError(
            f"fpr: {rate:g} needs {needed(rate):,} non-members, there are {non_members:,}; "
            f"accepted: from {_EXPECTED / max(1, non_members):.2g}"
        )


def tpr_at(scores: Floats, member: Mask, rate: float) -> dict[str, Any]:
    """Share of members above the threshold that at most `rate` of the non-members exceed.

    The interval takes the threshold as given, the p-value does not: where members and non-members
    are alike, the number of members above the k-th largest of n non-members is beta-binomial
    (k, n - k + 1).

    Returns:
        `tpr`, its Clopper-Pearson `interval` at 95 %, `fpr` (the rate rounded down to whole
        non-members), `p_value` (exact, one-sided; null: members are no likelier above it). Too few
        non-members give `needed` and `non_members` instead.
    """
    outside = np.sort(scores[~member])
    if len(outside) < needed(rate):
        return {"needed": needed(rate), "non_members": len(outside)}
    allowed = math.floor(rate * len(outside) + 1e-9)
    threshold = outside[len(outside) - 1 - allowed]
    hits, members = int((scores[member] > threshold).sum()), int(member.sum())
    low, high = clopper_pearson(hits, members, (1 - LEVEL) / 2)
    return {
        "tpr": hits / members,
        "interval": [float(low), float(high)],
        "fpr": float((outside > threshold).mean()),
        "p_value": float(betabinom.sf(hits - 1, members, allowed + 1, len(outside) - allowed)),
    }


def membership_report(arrays: Arrays, facts: dict[str, Any]) -> dict[str, Any]:
    """Figures of all targets, kinds of rows and attacks, from saved scores.

    Args:
        arrays: `<target>/<attack>`, `<target>/member`, `<target>/canary`.
        facts: as `dpsd.attacks.membership.attack.score_targets` gives them.
    """
    cells: list[dict[str, Any]] = []
    scored = score_cells(arrays, facts)
    asked = facts.get("fpr")
    if asked is not None:
        check_rate(asked, max(int((~member).sum()) for *_, member in scored))
    fpr = asked or RATES[0]
    rates = sorted({*RATES, fpr}, reverse=True)
    share = (1 - LEVEL) / (2 * len(scored))  # two tests a cell; all verdicts hold together
    for target, kind, name, scores, member in scored:
        area, low, high = auc(scores, member)
        cells.append(
            {"target": target, "rows": kind, "attack": name, "members": int(member.sum()),
             "non_members": int((~member).sum()), "auc": area, "auc_interval": [low, high],
             "auc_low": auc(scores, member, 1 - share)[1],
             "tpr_at": {f"{r:g}": tpr_at(scores, member, r) for r in rates}}
        )  # fmt: skip
    control = next(c for c in cells if (c["target"], c["rows"], c["attack"]) == CONTROL)
    power = control["auc"] >= POWER_AUC
    for cell in cells:
        known = facts["targets"][cell["target"]]["accuracy"] >= 2 / facts["classes"]
        placebo = _placebo(arrays, cell["target"], cell["attack"])
        cell["placebo"] = None if placebo is None else auc(*placebo)
        if placebo is None:
            null, few = 0.5, cell["tpr_at"][f"{fpr:g}"].get("p_value", 1.0) < share
        else:  # the rows differ in kind, which moves AUC and tail: only a larger AUC counts
            null, few = max(0.5, cell["placebo"][2]), False
        cell["verdict"] = _verdict(cell["auc_low"] > null or few, power=power, known=known)
    return {
        "schema_version": SCHEMA_VERSION,
        "attack": "membership",
        "unit": "record",
        "run": facts["run"],
        "budget": facts["budget"],
        "spend": facts["spend"],
        "seed": facts["seed"],
        "trained_on": facts["trained_on"],
        "fpr": fpr,
        "student_answers": facts.get("student_answers"),
        "clone_questions": facts.get("clone_questions"),
        "control": {"auc": control["auc"], "needed": POWER_AUC, "power": power},
        "targets": facts["targets"],
        "cells": cells,
        "skipped": facts["skipped"],
        "seconds": facts["seconds"],
    }


def score_cells(arrays: Arrays, facts: dict[str, Any]) -> list[tuple[str, str, str, Floats, Mask]]:
    """Target, kind of rows, attack, scores and membership of each cell of the table."""
    cells = []
    for target in facts["targets"]:
        canary, member = arrays[f"{target}/canary"], arrays[f"{target}/member"]
        for kind, rows in (("canaries", canary), ("ordinary", ~canary)):
            for name in ATTACKS:
                scores = arrays.get(f"{target}/{name}")
                if scores is not None and rows.any():
                    cells.append((target, kind, name, scores[rows], member[rows]))
    return cells


def _placebo(arrays: Arrays, target: str, attack: str) -> tuple[Floats, Mask] | None:
    """Scores of the same attack on another model, for "is a training row of the run".

    The profile's teacher was trained on training and held-out rows alike, so its scores show no
    membership in the run: they show how the two kinds of rows differ. None for models of the
    profile.
    """
    if "profile" in target:
        return None
    ordinary = ~arrays["profile teacher/canary"]
    return arrays[f"profile teacher/{attack}"][ordinary], arrays[f"{target}/member"]


def _verdict(leaks: bool, *, power: bool, known: bool) -> str:
    if not power:
        return "no power"
    if not known:
        return "no claim"  # the model's accuracy is below twice that of guessing
    return "leaks" if leaks else "no leak shown"
