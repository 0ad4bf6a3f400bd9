"""Accuracy of transcription, unit one answer or one record; its curve; ablations."""

import json
import tempfile
import time
from argparse import Namespace
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from bench_tables.cells import ablations, config_hash, configure, main_cells, stated_epsilon
from bench_tables.controls import transcribe_control, undone_accuracy
from bench_tables.jobs import RESULTS, Job, chosen
from dpsd.config import Config
from dpsd.data.load import load_data
from dpsd.evaluation.evaluate import evaluate
from dpsd.privacy.plan import make_plan
from dpsd.runs.folder import open_run
from dpsd.student.student import Student
from dpsd.teachers.folder import read_folder
from dpsd.teachers.teacher import ensure_teacher
from dpsd.transcription.transcribe import transcribe


def main_jobs(args: Namespace) -> Iterator[Job]:
    """The cells of cells.yaml."""
    return _jobs(main_cells(), args)


def ablation_jobs(args: Namespace) -> Iterator[Job]:
    """The cells of ablations.yaml."""
    return _jobs(ablations(), args)


def curve_jobs(args: Namespace) -> Iterator[Job]:
    """Cells of cells.yaml on the holdout rows, with one seed."""
    args.seed = (args.seed or [0])[:1]
    for name, cell, seed in chosen(main_cells(), args):
        config = configure(cell, seed, args.teachers, args.shrink)
        facts = {"cell": name, "config_hash": config_hash(config), "seed": seed}
        yield Job(RESULTS / f"curve-{name}.json", facts, partial(measure_curve, config))


def _jobs(cells: dict[str, dict], args: Namespace) -> Iterator[Job]:
    for name, cell, seed in chosen(cells, args):
        config, control = configure(cell, seed, args.teachers, args.shrink), cell.get("control")
        facts = {"cell": name, "config_hash": config_hash(config, control), "seed": seed}
        path = RESULTS / f"{name}-seed{seed}.json"
        yield Job(path, facts, partial(_measure_once, facts, config, control, args.again))


def _measure_once(facts: dict, config: Config, control: str | None, again: bool) -> dict:
    """The kept result of the same configuration and seed, else a new one."""
    for path in [] if again else sorted(RESULTS.glob("*-seed*.json")):
        result = json.loads(path.read_text())
        if all(result.get(key) == facts[key] for key in ("config_hash", "seed")):
            return result | facts
    return measure(config, control)


def measure(config: Config, control: str | None) -> dict:
    """Run one cell with one seed and evaluate it on the test rows.

    Its `seconds` are those of the transcription. A missing teacher is trained before.
    """
    ensure_teacher(config, print)
    with tempfile.TemporaryDirectory() as scratch:
        out, start = Path(scratch) / "run", time.perf_counter()
        if control is None:
            run = transcribe(config, out=out, data_is_public=True, say=print)
        else:
            run = transcribe_control(config, control, out)
        seconds = time.perf_counter() - start
        result = evaluate(open_run(run.path), split="test")
        report, metrics, epsilon = run.report(), run.metrics(), stated_epsilon(run)
        accuracy = undone_accuracy(run) if control == "permuted" else result["student"]["accuracy"]
    return {
        "seconds": seconds, "parts": report["seconds"],
        "answers": report["answers"], "unit": report["privacy"]["unit"],
        "epsilon": epsilon, "delta": report["privacy"]["delta"],
        "relation": report["privacy"]["relation"], "route": config.privacy.route,
        "teacher_seconds": read_folder(run.teacher_folder).facts.get("seconds"),
        "seeded_noise": True, "control": control, "student_accuracy": accuracy,
        "teacher_accuracy": report["teacher"]["accuracy"],
        "agreement": report["student"]["agreement"], "ece": report["student"].get("ece"),
        "per_class": result.get("per_class"), "loss": metrics[-1]["loss"],
        "rows": len(load_data(config.data).test),
    }  # fmt: skip


def measure_curve(config: Config) -> dict:
    """Run one cell and measure the student on the holdout rows after each round and the refit.

    The library's public metrics hold no accuracy. This script measures it, on the private side.
    """
    holdout, accuracies, fit = load_data(config.data).holdout, [], Student._train

    def watched(student, *args, **kwargs):
        figures = fit(student, *args, **kwargs)
        hits = student.predict(holdout.images).argmax(1) == holdout.labels
        accuracies.append(float(hits.double().mean()))
        return figures

    with tempfile.TemporaryDirectory() as scratch:
        Student._train = watched
        try:
            run = transcribe(config, out=Path(scratch) / "run", say=print)
        finally:
            Student._train = fit
        answers, teacher = [m["answers"] for m in run.metrics()], read_folder(run.teacher_folder)
    return {
        "unit": make_plan(config).unit, "split": "holdout", "rows": len(holdout),
        "answers": answers, "student_accuracy": accuracies[: config.loop.rounds],
        "refit_accuracy": accuracies[config.loop.rounds :],
        "teacher_accuracy": teacher.facts["accuracy"]["holdout"],
    }  # fmt: skip
