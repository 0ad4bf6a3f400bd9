"""From saved clones' predictions to figures. No figure here is an epsilon."""

import math
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from dpsd.attacks.extraction.matrix import UNDEFENDED, Cell
from dpsd.attacks.statistics import wilson
from dpsd.attacks.store import Arrays
from dpsd.evaluation.price import price_of

SCHEMA_VERSION = 1
SHARES = (0.5, 0.9, 0.95)
BOUNDARY = 0.2
"""Rows on which the victim's two likeliest classes are this close are the boundary set."""


def extraction_report(arrays: Arrays, facts: dict[str, Any]) -> dict[str, Any]:
    """Figures of all cells.

    Args:
        arrays: `labels` int64 [N] (empty: unknown); for each target `<target>/said` float32 [N, K],
            and `<target>/before` of the released student where it is a changed copy of that; for
            each defence `<target>/price/<defence>` float32 [N, K]; for each cell its arrays
            under `<cell>/`.
        facts: as `dpsd.attacks.extraction.attack.score` gives them.

    Returns:
        `cells`: a list of target, attack, defence, seed and `curve`, a list of asked, accuracy,
        agreement and boundary_agreement with their Wilson intervals, held_out_agreement, seconds;
        then `queries_to` (the first step of the ladder that reached a share of the victim's
        accuracy, which is at most what it takes; None: not reached), `area` (mean agreement over
        the logarithm of queries). `prices`: what each defence costs an honest user. `targets`: by
        name the accuracy and the rows of the boundary set; of a changed student also its `price`,
        as in `prices`, beside the released student.
    """
    labels = arrays["labels"]
    cells = []
    for known in facts["cells"]:
        cell = Cell(**known)
        said = arrays[f"{cell.target}/said"]
        cells.append(known | _figures(arrays, cell, said, labels))
    targets = {
        name: {
            "accuracy": _rate(arrays[f"{name}/said"].argmax(1), labels),
            "boundary_rows": int(_near(arrays[f"{name}/said"]).sum()),
        }
        | _change(arrays, name, labels)
        for name in facts["targets"]
    }
    prices = [
        {"target": name, "defence": defence}
        | _price(arrays[f"{name}/said"], arrays[f"{name}/price/{defence}"], labels, defence)
        for name in facts["targets"]
        for defence in facts["defences"]
        if defence != UNDEFENDED
    ]
    kept = {k: v for k, v in facts.items() if k not in ("cells", "targets")}
    return {
        "schema_version": SCHEMA_VERSION, **kept, "rows": facts["rows"], "targets": targets,
        "cells": cells, "prices": prices, "best": _best(cells),
    }  # fmt: skip


def _figures(
    arrays: Arrays, cell: Cell, said: NDArray[Any], labels: NDArray[Any]
) -> dict[str, Any]:
    mine = {k.removeprefix(f"{cell.name}/"): v for k, v in arrays.items()
            if k.startswith(f"{cell.name}/")}  # fmt: skip
    if "refused" in mine:
        return {"refused": str(mine["refused"]), "curve": [], "queries_to": {}, "area": None}
    named, near = said.argmax(1), _near(said)
    victim = _rate(named, labels)
    curve = []
    for asked, predicted, held, seconds in zip(
        mine["asked"], mine["predicted"], mine["held"], mine["seconds"], strict=True
    ):
        same = predicted == named
        curve.append({
            "asked": int(asked), "accuracy": _rate(predicted, labels),
            "agreement": float(same.mean()), "interval": _interval(same),
            "boundary_agreement": float(same[near].mean()) if near.any() else None,
            "boundary_interval": _interval(same[near]),
            "held_out_agreement": None if math.isnan(held) else float(held),
            "seconds": round(float(seconds), 1),
        })  # fmt: skip
    return {"refused": None, "curve": curve, "queries_to": _queries(curve, victim),
            "area": _area(curve)}  # fmt: skip


def _queries(curve: list[dict[str, Any]], victim: float | None) -> dict[str, int | None]:
    """The first step at which the clone had a share of the victim's accuracy (else: agreement)."""
    key, whole = ("agreement", 1.0) if victim is None else ("accuracy", victim)
    return {
        f"{share:g}": next((c["asked"] for c in curve if c[key] >= share * whole), None)
        for share in SHARES
    }


def _area(curve: list[dict[str, Any]]) -> float | None:
    """Mean agreement over log(queries), by trapezia; of one clone its agreement."""
    if not curve:
        return None
    x = np.log([c["asked"] for c in curve])
    y = np.array([c["agreement"] for c in curve])
    if len(curve) == 1 or x[-1] == x[0]:
        return float(y[-1])
    return float(((y[1:] + y[:-1]) / 2 * np.diff(x)).sum() / (x[-1] - x[0]))


def _near(said: NDArray[Any]) -> NDArray[np.bool_]:
    top = np.sort(said, 1)
    near: NDArray[np.bool_] = top[:, -1] - top[:, -2] < BOUNDARY
    return near


def _interval(same: NDArray[np.bool_]) -> list[float] | None:
    """Wilson's, of a share of rows; None without rows."""
    return list(wilson(int(same.sum()), len(same))) if len(same) else None


def _rate(named: NDArray[Any], labels: NDArray[Any]) -> float | None:
    return float((named == labels).mean()) if len(labels) else None


def _price(
    said: NDArray[Any], given: NDArray[Any], labels: NDArray[Any], defence: str
) -> dict[str, Any]:
    known = torch.from_numpy(labels) if len(labels) else None
    paid = price_of(torch.from_numpy(said), torch.from_numpy(given), known, defence.split("/"))
    return asdict(paid) | {"defences": list(paid.defences)}


def _change(arrays: Arrays, target: str, labels: NDArray[Any]) -> dict[str, Any]:
    if f"{target}/before" not in arrays:
        return {}
    return {"price": _price(arrays[f"{target}/before"], arrays[f"{target}/said"], labels, target)}


def _best(cells: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """For each target and defence the attack whose last clone agrees most, means over seeds."""
    ends: dict[tuple[str, str], dict[str, list[float]]] = {}
    for cell in cells:
        if cell["curve"]:
            attacks = ends.setdefault((cell["target"], cell["defence"]), {})
            attacks.setdefault(cell["attack"], []).append(cell["curve"][-1]["agreement"])
    best = []
    for (target, defence), attacks in ends.items():
        means = {name: float(np.mean(values)) for name, values in attacks.items()}
        name = max(means, key=lambda n: means[n])
        best.append({"target": target, "defence": defence, "attack": name,
                     "agreement": means[name]})  # fmt: skip
    return best
