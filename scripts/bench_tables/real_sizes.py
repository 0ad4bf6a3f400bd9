"""The loop's real parts at ImageNet shape, and what several processes share of them.

Rates are per second of processor time, because a shared machine changes them least.
"""

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from argparse import Namespace
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torchvision.models import resnet18, resnet50

from bench_tables.cells import stated_epsilon
from bench_tables.jobs import RESULTS, Job
from bench_tables.speed import Timed, peak_gib
from dpsd.config import Config, parse_config
from dpsd.device import pick_device, pick_dtype
from dpsd.generator.synthesizer import Synthesizer
from dpsd.privacy import releases
from dpsd.privacy.ledger import HASH_BYTES
from dpsd.privacy.mechanisms.base import Answers
from dpsd.privacy.oracle import Oracle
from dpsd.privacy.plan import make_plan
from dpsd.privacy.ranks import SharedOracle
from dpsd.runs.release import load_student
from dpsd.student import bank as banks
from dpsd.student.student import Student
from dpsd.transcription.session import disk_bytes, expected_bytes
from dpsd.transcription.transcribe import transcribe

IMAGENET = {"teacher": "ResNet-50", "student": "ResNet-34", "classes": 1000,
            "shape": [3, 224, 224], "rounds": 2, "bank": "on disk"}  # fmt: skip
IMAGENET_ANSWERS = 128  # over both rounds
PLANNED = {"images": 1_200_000, "rounds": 4800, "select": 1, "memory_GiB": 24}
BANK_IMAGES, BANK_BATCH = 2048, 32

RANKS = {"teacher": "ResNet-18", "student": "resnet20", "classes": 10, "shape": [3, 32, 32]}
RANK_ANSWERS = 4096


def imagenet_jobs(args: Namespace) -> Iterator[Job]:
    """Rates and memory of a run at ImageNet shape."""
    answers = max(IMAGENET["rounds"], IMAGENET_ANSWERS // args.shrink)
    yield Job(RESULTS / "imagenet.json", IMAGENET | {"answers": answers},
              partial(measure_imagenet, answers, BANK_IMAGES // args.shrink))  # fmt: skip


def rank_jobs(args: Namespace) -> Iterator[Job]:
    """What one and two processes with a thread each do in a round."""
    answers = max(1100, RANK_ANSWERS // args.shrink)
    yield Job(RESULTS / "ranks.json", RANKS | {"answers": answers},
              partial(measure_ranks, answers))  # fmt: skip


def measure_imagenet(answers: int, bank_images: int) -> dict[str, Any]:
    """Transcribe a random torchvision ResNet-50 into a ResNet-34, with the bank on disk.

    A random teacher teaches nothing, so no accuracy is measured.
    """
    classes, shape = IMAGENET["classes"], tuple(IMAGENET["shape"])
    banks.MAPPED_ABOVE = 0
    parts = _timed_parts(Oracle)
    with tempfile.TemporaryDirectory() as scratch:
        bank = _bank_rates(Path(scratch), bank_images, shape, classes)
        weights = Path(scratch) / "teacher.pt"
        torch.manual_seed(0)
        torch.save(resnet50(weights=None, num_classes=classes).state_dict(), weights)
        config = _imagenet(answers, IMAGENET["rounds"], teacher=weights)
        start, used = time.perf_counter(), time.process_time()
        run = transcribe(config, out=Path(scratch) / "run", progress=print)
        seconds, used = time.perf_counter() - start, time.process_time() - used
        report, epsilon = run.report(), stated_epsilon(run)
        with torch.inference_mode():
            logits = load_student(run)(torch.rand(2, *shape))
        assert logits.shape == (2, classes) and bool(logits.isfinite().all())
        assert report["answers"] == answers
    dtype = pick_dtype(config.precision, pick_device(config.device))
    trained = round(config.student.epochs_per_round * answers)
    trained += config.student.refit_epochs * answers
    processor = {name: part.processor for name, part in parts.items()}
    processor["oracle"] -= processor["teacher"] + processor["prior"]
    return {
        "unit": report["privacy"]["unit"], "epsilon": epsilon,
        "precision": str(dtype).removeprefix("torch."),
        "seconds": seconds, "processor_seconds": used, "parts": report["seconds"],
        "peak_GiB": peak_gib(),
        "images_per_processor_second": {
            name: (trained if name == "student" else answers) / s for name, s in processor.items()
        },
        "mapped": bank, "planned": _planned(),
    }  # fmt: skip


def measure_ranks(answers: int) -> dict[str, Any]:
    """One round by one and by two processes; rank 0's processor seconds by part."""
    with tempfile.TemporaryDirectory() as scratch:
        found = {str(n): _with_ranks(Path(scratch) / str(n), n, answers) for n in (1, 2)}
    return {"processes": found}


def _imagenet(answers: int, rounds: int, teacher: Path | None = None, **more: Any) -> Config:
    return parse_config({
        "data": {"name": "none", "shape": IMAGENET["shape"], "classes": IMAGENET["classes"]},
        "teacher": {"model": "resnet50", "weights": None if teacher is None else str(teacher)},
        "student": {"model": "resnet34", "loss": "likelihood", "batch_size": 32,
                    "refit_epochs": 0},
        "generator": {"select": 2} | more.pop("generator", {}),
        "loop": {"rounds": rounds} | more.pop("loop", {}),
        "privacy": {"mechanism": "randomized_response", "epsilon": 10,
                    "answers": answers, "insecure_seeded_noise": True},
    })  # fmt: skip


def _planned() -> dict[str, Any]:
    """What 1.2 million images need, by the plan; nothing is made."""
    n = PLANNED["images"]
    config = _imagenet(n, PLANNED["rounds"], loop={"window": n},
                       generator={"select": PLANNED["select"]})  # fmt: skip
    plan, (shape, classes) = make_plan(config), (config.facts.shape, config.facts.classes)
    return PLANNED | {
        "bank_bytes": banks.bank_bytes(n, shape, classes),
        "disk_bytes": disk_bytes(config, plan), "memory_bytes": expected_bytes(config, plan),
        "hash_bytes": n * (HASH_BYTES + 8),
    }  # fmt: skip


def _bank_rates(folder: Path, n: int, shape: tuple[int, int, int], classes: int) -> dict[str, Any]:
    """Releases written and synced, mapped, and read in random batches; wall seconds."""
    (folder / "bank").mkdir()
    bank = banks.MappedBank(n, shape, classes, releases=folder / "bank", folder=folder / "window")
    rng, step = torch.Generator().manual_seed(0), max(1, n // 8)
    wrote = mapped = 0.0
    before = _anonymous()
    for position in range(0, n, step):
        images = torch.randint(256, (step, *shape), generator=rng, dtype=torch.uint8)
        start = time.perf_counter()
        answers = Answers(torch.zeros(step, dtype=torch.int64))
        releases.keep_release(folder / "bank", position, images, answers)
        wrote += time.perf_counter() - start
        start = time.perf_counter()
        bank.add(images, torch.zeros(step, classes), position)
        mapped += time.perf_counter() - start
    del images
    places = torch.randperm(len(bank), generator=rng)
    cold = _read(bank, places, folder / "bank")
    warm = _read(bank, places, None)
    grew = _anonymous() - before
    size = sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())
    bank.close()
    return {
        "images": n, "bytes": size, "memory_grew_bytes": max(0, grew),
        "images_per_second": {"written": n / wrote, "mapped": n / mapped, "read_cold": n / cold,
                              "read_warm": n / warm},
    }  # fmt: skip


def _read(bank: banks.Bank, places: torch.Tensor, forget: Path | None) -> float:
    """Seconds of one pass in random batches; `forget`: a folder dropped from the cache before."""
    for path in [] if forget is None else forget.iterdir():
        handle = os.open(path, os.O_RDONLY)
        os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(handle)
    start = time.perf_counter()
    for batch in places.split(BANK_BATCH):
        bank.rows(batch)
    return time.perf_counter() - start


def _anonymous() -> int:
    """Memory of this process without pages of files, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(x.split()[1]) * 1024 for x in lines if x.startswith("RssAnon:"))


def _timed_parts(oracle: type) -> dict[str, Timed]:
    return {
        "synthesizer": Timed(Synthesizer, "sample"), "teacher": Timed(oracle, "_ask"),
        "prior": Timed(oracle, "_believe"), "oracle": Timed(oracle, "answer"),
        "student": Timed(Student, "fit"),
    }  # fmt: skip


def _with_ranks(folder: Path, processes: int, answers: int) -> dict[str, Any]:
    folder.mkdir()
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = str(s.getsockname()[1])
    ranks = [
        subprocess.Popen(
            [sys.executable, "-m", "bench_tables.real_sizes", str(folder), str(answers)],
            env=os.environ | {
                "RANK": str(r), "LOCAL_RANK": str(r), "WORLD_SIZE": str(processes),
                "LOCAL_WORLD_SIZE": str(processes), "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": port, "OMP_NUM_THREADS": "1",
                "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[1]), *sys.path]),
            },
        )
        for r in range(processes)
    ]  # fmt: skip
    codes = [process.wait() for process in ranks]
    assert codes == [0] * processes, codes
    return json.loads((folder / "found.json").read_text())


def _rank(folder: Path, answers: int) -> None:
    """One rank's part; rank 0 writes what its parts took."""
    alone = os.environ["WORLD_SIZE"] == "1"
    parts = _timed_parts(Oracle if alone else SharedOracle)
    weights = folder / f"teacher-{os.environ['RANK']}.pt"
    torch.manual_seed(0)
    torch.save(resnet18(weights=None, num_classes=RANKS["classes"]).state_dict(), weights)
    config = parse_config({
        "data": {"name": "none", "shape": RANKS["shape"], "classes": RANKS["classes"]},
        "teacher": {"model": "resnet18", "weights": str(folder / "teacher-0.pt"),
                    "root": str(folder / "teachers")},
        "student": {"model": RANKS["student"], "loss": "likelihood", "refit_epochs": 0},
        "loop": {"rounds": 1},
        "privacy": {"epsilon": 10, "answers": answers, "insecure_seeded_noise": True},
    })  # fmt: skip
    run = transcribe(config, out=folder / "run")
    if run is None:
        return
    wall = {name: part.seconds for name, part in parts.items()}
    processor = {name: part.processor for name, part in parts.items()}
    for seconds in (wall, processor):
        seconds["oracle"] -= seconds["teacher"] + seconds["prior"]
    found = {"seconds": wall, "processor_seconds": processor,
             "images_per_second": answers / sum(wall.values()),
             "images_per_processor_second": answers / sum(processor.values())}  # fmt: skip
    (folder / "found.json").write_text(json.dumps(found))


if __name__ == "__main__":
    torch.set_num_threads(1)
    _rank(Path(sys.argv[1]), int(sys.argv[2]))
