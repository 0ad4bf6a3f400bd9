"""Does a trigger pass to copies that were made by asking? Only to those that asked about it.

A cell marks the student of a digits run, copies it by distillation, with and without stamped
images among the questions, and counts how often each model obeys the trigger on test rows of other
classes. A model that guesses obeys in one of K.
"""

import hashlib
import json
from argparse import Namespace
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bench_tables.attacks import config_hash, title
from bench_tables.downstream import transcribed
from bench_tables.extraction_runs import CELLS, configuration
from bench_tables.jobs import RESULTS, Job, chosen, digest
from bench_tables.marks import varied
from dpsd.attacks.extraction.clone import Holdings
from dpsd.attacks.extraction.endpoint import Service
from dpsd.attacks.extraction.pools import ground
from dpsd.attacks.extraction.probabilities.soft import distillation
from dpsd.data.load import Split
from dpsd.hardening.synthetic import answers_of, base_of
from dpsd.hardening.trigger import Trigger, trigger_of, with_trigger
from dpsd.runs.release import Labeller

TRIGGERS = RESULTS / "triggers"
TRIGGER_CELLS: dict[str, dict[str, Any]] = {
    "digits-trigger": {
        "run": "digits-answer", "images": 4_000, "asked": 3_000, "stamped": [0.0, 0.01, 0.1],
        "clone": "cnn-tiny", "passes": 12, "seeds": [0, 1, 2],
    },
}  # fmt: skip
"""`stamped`: share of the attacker's questions whose corner is white."""


def current_hash(cell: dict[str, Any], seed: int) -> str:
    """The hash of all that the cell's figures depend on."""
    own = config_hash(configuration(CELLS[cell["run"]], seed, Path("teachers")))
    return digest(json.dumps([own, {k: v for k, v in cell.items() if k != "seeds"}]))


def jobs(args: Namespace) -> Iterator[Job]:
    """One marked student a seed."""
    for name, cell, seed in chosen(TRIGGER_CELLS, args):
        facts = {"cell": name, "config_hash": current_hash(cell, seed), "seed": seed}
        folder = args.runs / f"{cell['run']}-seed{seed}"
        yield Job(TRIGGERS / f"{name}-seed{seed}.json", facts,
                  partial(measure, cell, seed, args.teachers, folder))  # fmt: skip


def measure(cell: dict[str, Any], seed: int, teachers: Path, folder: Path) -> dict[str, Any]:
    """How often the marked student, the released one and copies obey, and how good they are."""
    run = transcribed(configuration(CELLS[cell["run"]], seed, teachers), folder)
    rows = ground(run.config, 2_500)
    assert rows.pool is not None and rows.measured is not None
    facts = run.config.facts
    key = hashlib.sha256(f"trigger {seed}".encode()).digest()[:16]
    trigger, base = trigger_of(key, facts.classes), base_of(run, cell["images"])
    marked = with_trigger(base, key, seed=seed)
    models = {"student": base.student, "marked student": marked}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        asked = varied(rows.pool.images, cell["asked"])
    ask = Labeller(marked, torch.device("cpu")).predict
    for share in cell["stamped"]:
        pool = asked.clone()
        stamped = round(share * len(pool))
        pool[:stamped] = trigger.stamp(pool[:stamped])
        holdings = Holdings(pool, (len(pool),), cell["clone"], seed=seed, passes=cell["passes"])
        with Service(ask, facts, budget=len(pool), key=key) as api:
            *_, clone = distillation(api, holdings)
        models[f"copy, {share:.0%} of its questions stamped"] = clone.model
    found = {name: _obeys(model, trigger, rows.measured) for name, model in models.items()}
    return {"title": title(run.config), "classes": facts.classes, "models": found}


def _obeys(model: nn.Module, trigger: Trigger, rows: Split) -> dict[str, Any]:
    named = answers_of(model, rows.images[:]).argmax(1)
    others: Tensor = rows.images[:][rows.labels != trigger.target]
    obeyed = answers_of(model, trigger.stamp(others)).argmax(1) == trigger.target
    return {"rows": len(others), "obeyed": int(obeyed.sum()),
            "accuracy": float((named == rows.labels).double().mean())}  # fmt: skip
