"""Model extraction: what attacks copy of a model, under which defence, and at what price.

A cell is one problem (victim and pool) under one defence. The victim is trained on the first half
of the training rows, or is a finished run's; its parts are kept, so that a stopped cell goes on.
"""

import json
from argparse import Namespace
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import load_file, save_file
from torch import Tensor

from bench_tables.jobs import RESULTS, Job, chosen, digest
from dpsd.attacks.extraction.attacks import ATTACKS
from dpsd.attacks.extraction.clone import Holdings
from dpsd.attacks.extraction.matrix import Cell, run_cells
from dpsd.attacks.extraction.pools import made, reshaped
from dpsd.attacks.extraction.report import extraction_report
from dpsd.attacks.extraction.victim import Victim
from dpsd.config import Config, parse_config
from dpsd.data.load import Split, join_splits, load_data
from dpsd.models.fit import FitRecipe, fit
from dpsd.models.networks import build_model
from dpsd.runs.release import Labeller

EXTRACTION = RESULTS / "extraction"
_NAME = "victim"


@dataclass(frozen=True)
class Problem:
    """A victim, what its attacker may ask about, and rows to measure on."""

    victim: Victim
    pool: Tensor
    labels: Tensor | None
    test: Split


def cells() -> dict[str, dict]:
    """Name -> cell: problem, defence, attacks, ladder and others, the problem's keys first."""
    tree = yaml.safe_load((Path(__file__).parent / "extraction_cells.yaml").read_text())
    shared, found = tree.pop("all"), {}
    for name, problem in tree.items():
        defences = problem.pop("defences", ["none"])
        for defence in defences:
            short = defence.replace(":", "-").replace("=", "-").replace("/", "-")
            title = problem["title"] + ("" if defence == "none" else f", {defence}")
            own = {"problem": name, "defence": defence, "title": title}
            if isinstance(defences, dict):
                own["attacks"] = defences[defence]
            found[f"{name}-{short}"] = shared | problem | own
    return found


def current_hash(cell: dict, seed: int) -> str:
    """The hash of all that the cell's figures depend on."""
    return digest(json.dumps({k: v for k, v in cell.items() if k not in ("title", "note", "seeds")}
                             | {"seed": seed}, sort_keys=True))  # fmt: skip


def jobs(args: Namespace) -> Iterator[Job]:
    """Every attack of a problem under one defence, for each seed."""
    for name, cell, seed in chosen(cells(), args):
        cell = cell | {"ladder": [max(10, n // args.shrink) for n in cell["ladder"]]}
        facts = {"cell": name, "config_hash": current_hash(cells()[name], seed), "seed": seed}
        yield Job(EXTRACTION / f"{name}-seed{seed}.json", facts,
                  partial(measure, cell, seed, args.teachers, args.runs))  # fmt: skip


def measure(cell: dict, seed: int, teachers: Path, folder: Path) -> dict[str, Any]:
    """Run the attacks of a cell and report on test rows, which are read once."""
    problem = make_problem(cell, seed, teachers)
    names = cell["attacks"] or list(ATTACKS)
    wanted = [Cell(_NAME, name, cell["defence"], seed) for name in names]
    ladder = tuple(cell["ladder"])
    holdings = Holdings(problem.pool, ladder, cell["clone"], passes=cell["passes"],
                        augment=cell["augment"])  # fmt: skip
    unlike = ("problem", "title", "defence", "attacks", "seeds", "note")
    identity = json.dumps({k: v for k, v in cell.items() if k not in unlike}, sort_keys=True)
    arrays = {"labels": problem.test.labels.numpy()} | run_cells(
        wanted, [problem.victim], holdings, problem.test.images[:],
        folder=folder / digest(identity), identity=identity, say=partial(print, flush=True),
    )  # fmt: skip
    facts = {
        "budget": "benchmark", "ladder": list(ladder), "model": cell["clone"],
        "pool": cell["pool"], "rows": len(problem.test), "labelled": True,
        "defences": [cell["defence"]], "targets": [_NAME],
        "cells": [{"target": _NAME, "attack": name, "defence": cell["defence"], "seed": seed}
                  for name in names],
    }  # fmt: skip
    report = extraction_report(arrays, facts)
    return {key: report[key] for key in ("targets", "cells", "prices", "ladder", "model", "pool",
                                         "rows")} | {
        "defence": cell["defence"],
        "seconds": {c.attack: round(float(arrays[f"{c.name}/seconds"][-1]), 1)
                    for c in wanted if f"{c.name}/seconds" in arrays},
    }  # fmt: skip


def make_problem(cell: dict, seed: int, teachers: Path) -> Problem:
    """The victim, trained or read, and the attacker's pool."""
    config = _config(cell["data"], seed)
    data = load_data(config.data)
    rows = join_splits(data.train, data.holdout)
    half = len(rows) // 2
    first, second = rows.pick(torch.arange(half)), rows.pick(torch.arange(half, len(rows)))
    ask = _trained(cell["victim"], config, first, seed, teachers)
    pool, labels = _pool(cell, config, second, seed)
    assert data.test is not None
    test = data.test.pick(torch.arange(min(cell["rows"], len(data.test))))
    return Problem(Victim(_NAME, ask, config.facts, cell["victim"]["model"]), pool, labels, test)


def _config(data: str, seed: int) -> Config:
    """Of the data alone; nothing is transcribed."""
    return parse_config({"data": {"name": data}, "seed": seed, "privacy": {"mechanism": "none"}})


def _pool(cell: dict, config: Config, second: Split, seed: int) -> tuple[Tensor, Tensor | None]:
    name, shape = cell["pool"], config.facts.shape
    if name == "half":
        return second.images[:], second.labels
    if name == "synthetic":
        prior = parse_config(config.model_dump(mode="json") | {"generator": cell["generator"]})
        return made(prior, max(cell["ladder"]), seed), None
    other = load_data(_config(name, seed).data)
    return reshaped(join_splits(other.train, other.holdout).images[:], shape), None


def _trained(recipe: dict, config: Config, rows: Split, seed: int, teachers: Path) -> Any:
    """A classifier of half of the rows; its weights are kept under a hash of all that made it."""
    name = digest(json.dumps([recipe, config.data.name, seed]))
    path = teachers / "extraction" / f"{name}.safetensors"
    model = build_model(recipe["model"], config.facts.shape, config.facts.classes)
    if path.exists():
        model.load_state_dict(load_file(path))
    else:
        torch.manual_seed(seed)
        model = build_model(recipe["model"], config.facts.shape, config.facts.classes)
        model = model.to(memory_format=torch.channels_last)
        steps = recipe["epochs"] * -(-len(rows) // recipe["batch_size"])
        fit(model, rows.images, rows.labels, FitRecipe(
            steps, recipe["batch_size"], recipe["lr"], recipe["augment"]), say=print)  # fmt: skip
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file({k: v.contiguous() for k, v in model.state_dict().items()}, path)
    return Labeller(model.eval(), torch.device("cpu")).predict
