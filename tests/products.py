"""One tiny finished run, shared by the tests of what a run is good for."""

import shutil
from pathlib import Path

import pytest

from dpsd.config import Config, parse_config
from dpsd.runs.folder import Run
from dpsd.transcription.transcribe import transcribe


def tiny_config(root: Path) -> Config:
    return parse_config(
        {
            "device": "cpu",
            "precision": "float32",
            "teacher": {
                "model": "cnn-small",
                "epochs": 1,
                "batch_size": 32,
                "root": str(root / "teachers"),
            },
            "student": {"batch_size": 100},
            "generator": {
                "kind": "mixed",
                "shares": {"strokes": 0.7, "adversarial": 0.3},
                "steps": 2,
                "select": 2,
            },
            "loop": {"rounds": 2},
            "privacy": {"epsilon": 8.0, "answers": 2000, "insecure_seeded_noise": True},
        }
    )


FEW = {"answers": 40, "epsilon": 8.0}
FAST_TEACHER = {"model": "cnn-tiny", "epochs": 1, "batch_size": 64}


def few_config(root, privacy=None, teacher=None, data=None, **sections):
    """A run of few answers and a teacher that knows little: fast."""
    tree = tiny_config(root).model_dump(mode="json", exclude_unset=True)
    tree["generator"] = {}
    tree["student"] |= {"refit_epochs": 0}
    tree["privacy"] = FEW | (privacy or {})
    tree["teacher"] = {"root": str(root / "teachers")} | FAST_TEACHER | (teacher or {})
    return parse_config(tree | {"data": data or {"name": "digits"}} | sections)


def tiny_run(factory: pytest.TempPathFactory) -> Run:
    """The run, made by whoever asks first. Do not write into it."""
    root = factory.getbasetemp() / "products"
    if not (root / "run").exists():
        transcribe(tiny_config(root), out=root / "run")
    return Run(root / "run")


def copy_of(run: Run, folder: Path) -> Run:
    """A copy that a test may change; it knows the same teacher."""
    shutil.copytree(run.path, folder)
    return Run(folder)


def contents(folder: Path) -> dict[str, bytes]:
    """All files below a folder."""
    return {
        str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()
    }
