"""The cells of scripts/bench_federated: what is run, under which configuration, and where."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from bench_cells import ROOT, config_hash

from dpsd.config import Config, load_config
from dpsd.config.sections import DataConfig
from dpsd.data.sources import read_cifar10_jpeg

RESULTS = ROOT / "docs" / "results" / "federated"
FEDAVG = {"fedavg-1": (1, 12.0), "fedavg-20": (20, 1.0)}
"""Rounds and local passes a round."""


def cells() -> dict[str, dict]:
    """Name -> cell; ablations stand on a base."""
    found = yaml.safe_load((ROOT / "scripts" / "federated_cells.yaml").read_text())
    for name, cell in found.items():
        if "base" in cell:
            base = found[cell["base"]]
            extra = {"set": [*base["set"], cell["ablation"]], "title": cell["title"], "seeds": [0]}
            found[name] = base | extra | {"base": cell["base"]}
    return found


def configure(cell: dict, seed: int, teachers: Path, shrink: int = 1) -> Config:
    """The cell's configuration; `shrink` divides answers, training and clients for trials."""
    last = {}
    for item in cell["set"]:
        key, _, value = item.partition("=")
        last[key] = value
    last |= {"seed": seed, "federated.seed": seed, "teacher.root": teachers,
             "privacy.insecure_seeded_noise": "true"}  # fmt: skip
    if "rows" in cell:
        last |= {"data.name": "npz", "data.root": teachers / f"cifar10-{cell['rows']}.npz",
                 "data.classes": 10, "data.shape": "[3,32,32]"}  # fmt: skip
    if "alpha" in cell:
        last["federated.alpha"] = cell["alpha"]
    if "rounds" in cell:
        last["loop.rounds"] = cell["rounds"]
    if shrink > 1:
        rounds = min(2, int(last.get("loop.rounds", 10)))
        answers = int(last.get("privacy.answers", 200000)) // shrink // rounds * rounds
        last |= {"loop.rounds": rounds, "privacy.answers": max(rounds * 20, answers),
                 "teacher.epochs": 1, "student.refit_epochs": 1}  # fmt: skip
    return load_config(ROOT / "configs" / cell["config"], [f"{k}={v}" for k, v in last.items()])


def write_rows(cell: dict, teachers: Path) -> None:
    """The file of a cell that takes the first `rows` training rows of CIFAR-10 (JPEG archive)."""
    path = teachers / f"cifar10-{cell['rows']}.npz"
    if path.exists():
        return
    (images, labels), test = read_cifar10_jpeg(DataConfig().folder() / "cifar10_jpeg.npz")
    kept = cell["rows"]
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, x=images[:kept], y=labels[:kept], test_x=test[0], test_y=test[1])


def current_hash(cell: dict, seed: int) -> str:
    """`config_hash` of what the cell runs now."""
    return config_hash(configure(cell, seed, Path("teachers")))


def baseline_name(config: Config) -> str:
    """The file of a partition's baselines, which cells of the same partition share."""
    f = config.federated
    clients = f"{f.clients}-" if f.clients != 5 else ""
    part = "iid" if f.partition == "iid" else f"alpha{f.alpha:g}"
    root = config.data.root
    data = root.stem if config.data.name == "npz" and root else config.data.name
    return f"baselines-{data}-{clients}{part}-seed{f.seed}"


def baseline_facts(config: Config) -> dict[str, Any]:
    """All that the baselines of a partition depend on, and its hash under `config_hash`."""
    f = config.federated
    facts = {"federated": {k: getattr(f, k) for k in ("clients", "partition", "alpha", "seed")},
             "teacher": config.teacher.model_dump(mode="json", exclude={"root"}),
             "student": config.student.model, "fedavg": FEDAVG}  # fmt: skip
    text = json.dumps(facts, sort_keys=True)
    digest = hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
    return {"config_hash": digest, "facts": facts}
