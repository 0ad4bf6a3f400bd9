"""What a fresh model learns from synthetic data alone: unit one answer or one record.

A cell transcribes, or takes a finished run of the same configuration, draws samples from its
release, trains a fresh model of another architecture on them and reads the test rows once.
"""

import json
import time
from argparse import Namespace
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from bench_tables.cells import config_hash, configure, main_cells
from bench_tables.jobs import RESULTS, Job, chosen, digest
from dpsd.config import Config
from dpsd.evaluation.downstream import downstream
from dpsd.runs.folder import Run, open_run
from dpsd.runs.samples import draw_samples
from dpsd.teachers.teacher import ensure_teacher
from dpsd.transcription.transcribe import transcribe

DOWNSTREAM = RESULTS / "downstream"
MUST = 0.01
"""The largest distance to the student's accuracy."""
_SAMPLES = ("samples", "balanced", "best", "select")
_FRESH = ("model", "passes", "soft", "temperature")


def cells() -> dict[str, dict]:
    """Name -> cell: a base among the main cells, overrides, and how samples and model are made."""
    found = yaml.safe_load((Path(__file__).parent / "downstream_cells.yaml").read_text())
    shared, main = found.pop("all"), main_cells()
    merged = {}
    for name, own in found.items():
        base = main[own["base"]]
        title, unit = own.get("title", base["title"]), base.get("unit", "answer")
        overrides = [*base.get("set", []), *own.get("set", [])]
        cell = shared | own | {"title": title, "unit": unit, "set": overrides}
        merged[name] = cell | {"config": base["config"]}
    return merged


def options(cell: dict) -> dict[str, Any]:
    """How the samples are drawn, and how the fresh model is trained on them."""
    return {key: cell[key] for key in _SAMPLES + _FRESH}


def current_hash(cell: dict, seed: int) -> str:
    """The hash of all that the cell's figures depend on."""
    config, how = configure(cell, seed, Path("teachers")), options(cell)
    if how["temperature"] == 1:
        del how["temperature"]  # it came after cells were measured
    return digest(config_hash(config) + json.dumps(how, sort_keys=True))


def jobs(args: Namespace) -> Iterator[Job]:
    """One fresh model for each cell and seed."""
    for name, cell, seed in chosen(cells(), args):
        config = configure(cell, seed, args.teachers, args.shrink)
        made = options(cell) | {"samples": max(1_000, cell["samples"] // args.shrink)}
        facts = {"cell": name, "config_hash": current_hash(cell, seed), "seed": seed}
        folder = args.runs / f"{name}-seed{seed}{'' if args.shrink == 1 else '-small'}"
        yield Job(DOWNSTREAM / f"{name}-seed{seed}.json", facts,
                  partial(measure, config, folder, made))  # fmt: skip


def measure(config: Config, folder: Path, made: dict[str, Any]) -> dict[str, Any]:
    """Draw samples from the run in the folder, train a fresh model and measure it on test rows."""
    run = transcribed(config, folder)
    start = time.perf_counter()
    choice = {key: made[key] for key in _SAMPLES if key != "samples"}
    samples = draw_samples(run, made["samples"], **choice)
    drawing = time.perf_counter() - start
    how = {key: made[key] for key in _FRESH}
    found = downstream(run, samples, split="test", choice=choice, **how, say=print)
    return found | {"drawing_seconds": drawing, "relation": run.report()["privacy"]["relation"]}


def transcribed(config: Config, folder: Path) -> Run:
    """The finished run in this folder; made, or resumed, where it is missing."""
    if (folder / "private" / "report.json").is_file():
        run = open_run(folder)
        if config_hash(run.config) == config_hash(config):
            return run
        raise SystemExit(f"{folder}: a run of another configuration; remove it")
    ensure_teacher(config, print)
    resume = (folder / "private" / "run.json").is_file()
    return transcribe(config, out=folder, resume=resume, data_is_public=True, say=print)
