"""Speed and memory of the loop: as ratios within one run, and at ImageNet shape."""

import resource
import tempfile
import time
from argparse import Namespace
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torchvision.models import resnet50

from bench_tables.cells import stated_epsilon
from bench_tables.jobs import RESULTS, ROOT, Job
from dpsd.config import Config, load_config, parse_config
from dpsd.device import pick_device, pick_dtype
from dpsd.generator.synthesizer import Synthesizer
from dpsd.runs.release import load_student
from dpsd.student.student import Student
from dpsd.transcription.transcribe import transcribe

CONFIG, ANSWERS = "mnist.yaml", 30_000
IMAGENET = {"teacher": "ResNet-50", "student": "ResNet-34", "classes": 1000,
            "shape": [3, 224, 224], "rounds": 2}  # fmt: skip
IMAGENET_ANSWERS = 128  # over both rounds


def speed_jobs(args: Namespace) -> Iterator[Job]:
    """Seconds, shares and memory of N and 4N answers."""
    yield Job(RESULTS / "speed.json", {"config": CONFIG},
              partial(measure_speed, args.teachers, ANSWERS // args.shrink))  # fmt: skip


def imagenet_jobs(args: Namespace) -> Iterator[Job]:
    """Seconds and memory of a run at ImageNet shape."""
    answers = max(IMAGENET["rounds"], IMAGENET_ANSWERS // args.shrink)
    yield Job(RESULTS / "imagenet.json", IMAGENET | {"answers": answers},
              partial(measure_imagenet, answers))  # fmt: skip


class Timed:
    """Adds up the seconds of a method of a class."""

    def __init__(self, owner: type, name: str) -> None:
        self.seconds, inner = 0.0, getattr(owner, name)

        def timed(*args, **kwargs):
            start = time.perf_counter()
            try:
                return inner(*args, **kwargs)
            finally:
                self.seconds += time.perf_counter() - start

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
        "peak_GiB": _peak(),
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


def measure_imagenet(answers: int) -> dict[str, Any]:
    """Transcribe a random torchvision ResNet-50 into a ResNet-34.

    A random teacher teaches nothing, so no accuracy is measured.
    """
    classes, shape = IMAGENET["classes"], IMAGENET["shape"]
    with tempfile.TemporaryDirectory() as scratch:
        weights = Path(scratch) / "teacher.pt"
        torch.manual_seed(0)
        torch.save(resnet50(weights=None, num_classes=classes).state_dict(), weights)
        config = parse_config({
            "data": {"name": "none", "shape": shape, "classes": classes},
            "teacher": {"model": "resnet50", "weights": str(weights)},
            "student": {"model": "resnet34", "loss": "likelihood", "batch_size": 32},
            "generator": {"select": 2},
            "loop": {"rounds": IMAGENET["rounds"]},
            "privacy": {"mechanism": "randomized_response", "epsilon": 10,
                        "answers": answers, "insecure_seeded_noise": True},
        })  # fmt: skip
        start, used = time.perf_counter(), time.process_time()
        run = transcribe(config, out=Path(scratch) / "run", progress=print)
        seconds, used = time.perf_counter() - start, time.process_time() - used
        report, epsilon = run.report(), stated_epsilon(run)
        with torch.inference_mode():
            logits = load_student(run)(torch.rand(2, *shape))
        assert logits.shape == (2, classes) and bool(logits.isfinite().all())
        assert report["answers"] == answers
    dtype = pick_dtype(config.precision, pick_device(config.device))
    return {
        "unit": report["privacy"]["unit"], "epsilon": epsilon,
        "precision": str(dtype).removeprefix("torch."),
        "seconds": seconds, "processor_seconds": used, "parts": report["seconds"],
        "peak_GiB": _peak(),
    }  # fmt: skip


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
