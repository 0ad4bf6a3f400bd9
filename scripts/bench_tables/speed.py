"""Speed and memory of the loop, as ratios within one run."""

import resource
import tempfile
import time
from argparse import Namespace
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from bench_tables.jobs import RESULTS, ROOT, Job
from dpsd.config import Config, load_config, parse_config
from dpsd.generator.synthesizer import Synthesizer
from dpsd.student.student import Student
from dpsd.transcription.transcribe import transcribe

CONFIG, ANSWERS = "mnist.yaml", 30_000


def speed_jobs(args: Namespace) -> Iterator[Job]:
    """Seconds, shares and memory of N and 4N answers."""
    yield Job(RESULTS / "speed.json", {"config": CONFIG},
              partial(measure_speed, args.teachers, ANSWERS // args.shrink))  # fmt: skip


class Timed:
    """Adds up what a method of a class takes: seconds, and seconds of this process's threads."""

    def __init__(self, owner: type, name: str) -> None:
        self.seconds, self.processor, inner = 0.0, 0.0, getattr(owner, name)

        def timed(*args, **kwargs):
            start, used = time.perf_counter(), time.process_time()
            try:
                return inner(*args, **kwargs)
            finally:
                self.seconds += time.perf_counter() - start
                self.processor += time.process_time() - used

        setattr(owner, name, timed)


def measure_speed(teachers: Path, answers: int) -> dict[str, Any]:
    """Transcribe with N and 4N answers.

    The oracle's own share is noise, accounting, ledger and hashing, without the teacher's and the
    student's forward passes. The ratio counts the fresh student's passes at the end.
    """
    config = load_config(ROOT / "configs" / CONFIG, [f"teacher.root={teachers}", "loop.rounds=10"])
    _parts(config, answers // 5)  # warms up, and trains a missing teacher
    small, large = (_parts(config, n) for n in (answers, 4 * answers))
    return {
        "small": small, "large": large,
        "time_ratio_4N_to_N": large["seconds"] / small["seconds"],
        "oracle_share_of_rounds": large["parts"]["oracle"] / large["rounds_seconds"],
        "peak_GiB": peak_gib(),
    }  # fmt: skip


def _parts(config: Config, answers: int) -> dict[str, Any]:
    sample, fit = Timed(Synthesizer, "sample"), Timed(Student, "fit")
    refit = Timed(Student, "refit")
    tree = config.model_dump(mode="json")
    tree["privacy"] |= {"answers": answers, "insecure_seeded_noise": True}
    with tempfile.TemporaryDirectory() as scratch:
        run = transcribe(parse_config(tree), out=Path(scratch) / "run")
        report, rounds = run.report(), run.seconds()
    whole, parts = rounds + refit.seconds, report["seconds"]
    parts |= {"synthesizer": sample.seconds, "student": fit.seconds, "refit": refit.seconds}
    return {
        "answers": answers, "seconds": whole, "rounds_seconds": rounds, "parts": parts,
        "share": {name: seconds / whole for name, seconds in parts.items()},
        "images_per_second": {
            "synthesizer": answers / sample.seconds, "teacher": answers / parts["teacher"],
            "prior": answers / parts["prior"], "oracle": answers / parts["oracle"],
            "student": answers * config.student.epochs_per_round / fit.seconds,
            "refit": answers * config.student.refit_epochs / refit.seconds,
            "run": answers / whole,
        },
    }  # fmt: skip


def peak_gib() -> float:
    """Peak memory of this process, pages of mapped files included."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
