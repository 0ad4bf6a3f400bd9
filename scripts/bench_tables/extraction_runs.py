"""Teacher or student as the victim, and what copies of them leak about the private rows.

A cell is one guarantee on digits 5 to 9. Each seed transcribes anew, copies teacher and student
(extraction), and attacks both and copies of both (membership, inversion). An epsilon here is the
run's claim, with its unit; no other figure is about privacy by proof.
"""

import json
from argparse import Namespace
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from bench_tables.attacks import config_hash, title
from bench_tables.downstream import transcribed
from bench_tables.jobs import RESULTS, ROOT, Job, chosen, digest
from dpsd.attacks.command import extraction, inversion, membership
from dpsd.attacks.extraction.attack import Choice
from dpsd.config import Config, load_config
from dpsd.hardening.make import make_mark
from dpsd.hardening.marks import marked_folder

EXTRACTION_RUNS = RESULTS / "extraction-runs"
QUESTIONS = 1_000
"""That make the copies which membership and inversion attack."""
_OPEN = ["privacy.mechanism=none", "privacy.ask=label", "privacy.answers=20000",
         "privacy.epsilon=null", "student.loss=dkd"]  # fmt: skip
CELLS: dict[str, dict[str, Any]] = {
    "digits-none": {"set": _OPEN},
    "digits-answer": {"set": []},
    "digits-record": {"set": [
        *_OPEN, "privacy.route=inherited", "privacy.unit=record", "teacher.model=scatter-linear",
        "student.model=scatter-linear", "student.lr=0.01", "teacher.dp.epsilon=3",
        "teacher.dp.delta=1e-4", "teacher.dp.batch_size=256", "teacher.dp.epochs=30",
        "teacher.dp.lr=2",
    ]},
    "digits-hardened": {"set": [], "hardened": ["nasty", "robust"]},
}  # fmt: skip
"""`hardened`: changed students of the run, copied beside it; nothing else is attacked then."""


def configuration(cell: dict[str, Any], seed: int, teachers: Path) -> Config:
    """The run's."""
    return load_config(ROOT / "configs" / "attacks_digits.yaml",
                       [*cell["set"], f"seed={seed}", f"teacher.root={teachers}"])  # fmt: skip


def current_hash(cell: dict[str, Any], seed: int) -> str:
    """The hash of all that the cell's figures depend on."""
    own = config_hash(configuration(cell, seed, Path("teachers")))
    return digest(json.dumps([own, QUESTIONS, *cell.get("hardened", [])]))


def jobs(args: Namespace) -> Iterator[Job]:
    """One run a cell and seed."""
    for name, cell, seed in chosen({n: c | {"seeds": [0, 1, 2]} for n, c in CELLS.items()}, args):
        facts = {"cell": name, "config_hash": current_hash(cell, seed), "seed": seed}
        yield Job(EXTRACTION_RUNS / f"{name}-seed{seed}.json", facts,
                  partial(measure, cell, seed, args, args.runs / f"{name}-seed{seed}"))  # fmt: skip


def measure(cell: dict[str, Any], seed: int, args: Namespace, folder: Path) -> dict[str, Any]:
    """Transcribe, or take the finished run, and attack."""
    run = transcribed(configuration(cell, seed, args.teachers), folder)
    how: dict[str, Any] = {"budget": "fast", "seed": seed, "say": partial(print, flush=True)}
    if "hardened" in cell:
        for kind in cell["hardened"]:
            if not marked_folder(run, kind).exists():
                make_mark(run, kind, seed=seed)
        copied = extraction(run, choice=Choice(targets=("student", *cell["hardened"])), **how)
        return {"title": title(run.config), "ladder": copied["ladder"], "copies": _copies(copied)}
    copied = extraction(run, choice=Choice(targets=("teacher", "student")), **how)
    members = membership(run, clones=QUESTIONS, **how)
    inverted = inversion(run, clones=QUESTIONS, **how)
    return {
        "title": title(run.config), "questions": QUESTIONS, "ladder": copied["ladder"],
        "copies": _copies(copied), "membership": _membership(members),
        "inversion": _inversion(inverted),
    }  # fmt: skip


def _copies(report: dict[str, Any]) -> dict[str, Any]:
    """Victim -> its accuracy, and each attack's agreement and accuracy without a defence."""
    return {
        name: {
            "accuracy": facts["accuracy"],
            "attacks": {
                c["attack"]: {k: c["curve"][-1][k] for k in ("agreement", "accuracy")}
                for c in report["cells"]
                if c["target"] == name and c["defence"] == "none" and c["curve"]
            },
        }
        for name, facts in report["targets"].items()
    }


def _membership(report: dict[str, Any]) -> dict[str, Any]:
    """Model -> the strongest attack on it by its AUC, and that AUC's interval."""
    found: dict[str, Any] = {}
    for cell in report["cells"]:
        key = f"{cell['target']}, {cell['rows']}"
        if key not in found or cell["auc"] > found[key]["auc"]:
            kept = ("attack", "auc", "auc_interval", "verdict")
            found[key] = {name: cell[name] for name in kept}
    return found


def _inversion(report: dict[str, Any]) -> dict[str, Any]:
    """Model -> share of reconstructions that both judges take for the class, by attack."""
    return {
        attack: {
            name: target["rates"]["both"] for name, target in found["targets"].items()
        } | {"floor": found["floors"]["draws"]["both"]}
        for attack, found in report["attacks"].items()
    }  # fmt: skip
