"""What all benchmarks share: a job writes one JSON file below docs/results/, once."""

import fnmatch
import hashlib
import json
import os
import subprocess
from argparse import Namespace
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from dpsd.device import use_threads
from dpsd.files import write_json

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "docs" / "results"


@dataclass(frozen=True)
class Job:
    """One measurement and the file that keeps it.

    Args:
        path: of the JSON file.
        facts: what is measured: cell, configuration hash, seed. A file that states the same facts
            keeps this measurement.
        measure: returns the figures.
        key: a figure that the file must hold too, where several jobs share the file.
    """

    path: Path
    facts: dict[str, Any]
    measure: Callable[[], dict[str, Any]]
    key: str | None = None

    def kept(self) -> dict[str, Any]:
        """The file's content where it states the same facts, else nothing."""
        result = json.loads(self.path.read_text()) if self.path.exists() else {}
        return result if self.facts.items() <= result.items() else {}

    def done(self) -> bool:
        """Whether the file keeps this measurement."""
        result = self.kept()
        return bool(result) and (self.key is None or self.key in result)


def run_jobs(jobs: Iterable[Job], keep: bool = True, again: bool = False) -> None:
    """Measure what no file keeps yet.

    Args:
        jobs: in the order in which they are measured.
        keep: write the files; without it every job is measured and nothing is written.
        again: measure what a file keeps too.
    """
    use_threads(None)
    for job in jobs:
        if keep and not again and job.done():
            print(f"{job.path.stem}: there already")
            continue
        result = {"machine": machine(), "revision": revision()} | job.facts | job.measure()
        shown = result if job.key is None else result[job.key]
        figures = [f"{k} {v:.4g}" for k, v in shown.items() if isinstance(v, float)]
        print(f"{job.path.stem}: {', '.join(figures)}", flush=True)
        if keep:
            job.path.parent.mkdir(parents=True, exist_ok=True)
            write_json(job.path, result)


def chosen(cells: dict[str, Any], args: Namespace) -> Iterator[tuple[str, Any, int]]:
    """Name, cell and seed of what the command line asks for; default seeds: the cell's own."""
    for name, cell in cells.items():
        if any(fnmatch.fnmatch(name, pattern) for pattern in args.cell):
            for seed in args.seed or cell.get("seeds", [0]):
                yield name, cell, seed


def digest(text: str) -> str:
    """A short hash of a configuration that was written as JSON."""
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def machine() -> dict[str, Any]:
    """Processor, cores, threads, versions."""
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def revision() -> str:
    """The git revision, `-dirty` where files were changed."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12"]
    done = subprocess.run(command, cwd=ROOT, text=True, capture_output=True, check=False)
    return done.stdout.strip()


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if "model name" in line)
    except (OSError, StopIteration):
        return "unknown"
