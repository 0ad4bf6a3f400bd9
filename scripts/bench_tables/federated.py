"""FedDPSD and its baselines, a JSON file for each cell and seed in docs/results/federated/.

The baselines of a partition: each client's teacher alone, the ensemble of the teachers' logits,
FedAvg in one shot and in 20 rounds. Cells of the same partition share them.
"""

import json
import tempfile
import time
from argparse import Namespace
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from bench_tables.cells import config_hash, hashed_tree, stated_epsilon
from bench_tables.fedavg import fedavg
from bench_tables.jobs import RESULTS, ROOT, Job, chosen, digest
from dpsd.config import Config, load_config
from dpsd.config.sections import DataConfig
from dpsd.data.load import Split, load_data
from dpsd.data.sources import read_cifar10_jpeg
from dpsd.evaluation.evaluate import evaluate
from dpsd.evaluation.federation import federation_teacher
from dpsd.federated.federate import federate, open_nodes
from dpsd.federated.home import client_rows
from dpsd.federated.table import Table, totals
from dpsd.models.networks import as_input
from dpsd.teachers.folder import as_logits
from dpsd.teachers.teacher import accuracy

FEDERATED = RESULTS / "federated"
CONFIG = ROOT / "configs" / "mnist_federated.yaml"
FEDAVG = {"fedavg-1": (1, 12.0), "fedavg-20": (20, 1.0)}
"""Rounds and local passes a round."""
BASELINES = ("local-only", "ensemble", *FEDAVG)


def cells() -> dict[str, dict]:
    """Name -> cell; those with a base vary its aggregation, with seed 0."""
    cells = yaml.safe_load(Path(__file__).with_name("federated_cells.yaml").read_text())
    for name, cell in cells.items():
        if "base" in cell:
            base = cells[cell["base"]]
            overrides = [*base["set"], f"federated.aggregate={cell['aggregate']}"]
            cells[name] = base | cell | {"set": overrides, "seeds": [0]}
    return cells


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
    return load_config(CONFIG, [f"{k}={v}" for k, v in last.items()])


def write_rows(cell: dict, teachers: Path) -> None:
    """Write the file of a cell that takes the first `rows` of CIFAR-10 (JPEG archive)."""
    if "rows" not in cell:
        return
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
             "teacher": hashed_tree(config)["teacher"],
             "student": config.student.model, "fedavg": FEDAVG}  # fmt: skip
    return {"config_hash": digest(json.dumps(facts, sort_keys=True)), "facts": facts}


def jobs(args: Namespace) -> Iterator[Job]:
    """One run for each cell and seed."""
    for name, cell, seed in chosen(cells(), args):
        config = configure(cell, seed, args.teachers, args.shrink)
        facts = {"cell": name, "config_hash": config_hash(config), "seed": seed}
        yield Job(FEDERATED / f"{name}-seed{seed}.json", facts,
                  partial(measure, cell, config, args.teachers))  # fmt: skip


def baseline_jobs(args: Namespace) -> Iterator[Job]:
    """The baselines of the cells' partitions; those of one partition share a file."""
    seen = set()
    for _, cell, seed in chosen(cells(), args):
        if "base" in cell or not cell.get("baselines", True):
            continue
        config = configure(cell, seed, args.teachers, args.shrink)
        name, stated = baseline_name(config), baseline_facts(config)
        facts = {"baseline": name, "config_hash": stated["config_hash"], "seed": seed}
        path = FEDERATED / f"{name}.json"
        if path in seen:
            continue
        seen.add(path)
        for key in BASELINES:
            work = partial(measure_baseline, key, cell, config, args.teachers, args.shrink > 1)
            yield Job(path, facts, partial(_added, path, facts, stated, key, work), key)


def _added(
    path: Path, facts: dict, stated: dict, key: str, work: Callable[[], dict]
) -> dict[str, Any]:
    """What the file keeps of this partition, with one more baseline."""
    start = time.perf_counter()
    figures = work() | {"seconds": time.perf_counter() - start}
    return stated | Job(path, facts, work).kept() | {key: figures}


def measure(cell: dict, config: Config, teachers: Path) -> dict:
    """Run one cell with one seed and evaluate it on the test rows."""
    write_rows(cell, teachers)
    with tempfile.TemporaryDirectory() as scratch:
        open_nodes(config, print)  # the clients' training is not the run's time
        start = time.perf_counter()
        run = federate(config, out=Path(scratch) / "run", data_is_public=True, say=print)
        seconds = time.perf_counter() - start
        result = evaluate(run, split="test")
        report, given = run.report(), totals(Table(run).rows())
        epsilon = stated_epsilon(run)
        student = (run.release / "student.safetensors").stat().st_size
    f, rounds = config.federated, config.loop.rounds

    def each(key):  # bytes of a client and round
        return sum(g[key] for g in given.values()) / f.clients / rounds

    return {
        "seconds": seconds, "parts": report["seconds"],
        "answers": report["answers"], "rounds": rounds, "clients": f.clients,
        "unit": report["privacy"]["unit"], "epsilon": epsilon,
        "delta": report["privacy"]["delta"], "seeded_noise": True, "aggregate": f.aggregate,
        "student_accuracy": result["student"]["accuracy"],
        "ensemble_accuracy": result["teacher"]["accuracy"],
        "bytes_down_per_client_and_round": each("bytes_down"),
        "bytes_up_per_client_and_round": each("bytes_up"), "bytes_of_the_student": student,
        "failures": [why for g in given.values() for why in g["failures"]],
    }  # fmt: skip


def measure_baseline(key: str, cell: dict, config: Config, teachers: Path, trial: bool) -> dict:
    """One baseline of one partition on the test rows; `trial` shortens FedAvg."""
    write_rows(cell, teachers)
    data = load_data(config.data)
    if key == "local-only":
        return local_only(config, data.test)
    if key == "ensemble":
        teacher = federation_teacher(config)
        return {"accuracy": accuracy(lambda x: as_logits(teacher(x)), data.test)}
    rounds, epochs = (min(2, FEDAVG[key][0]), 0.05) if trial else FEDAVG[key]
    model, size = fedavg(config, data, client_rows(config, data), rounds, epochs)
    with torch.inference_mode():
        right = accuracy(lambda x: model(as_input(x)), data.test)
    return {"accuracy": right, "rounds": rounds, "epochs": epochs, "bytes_of_the_model": size}


def local_only(config: Config, test: Split) -> dict:
    """Each client's own teacher, without the others; no more than 20 clients are measured."""
    accuracies = []
    for node in open_nodes(config, print)[:20]:
        answers = torch.cat([node.home.teacher(x) for x in test.images.split(512)])
        votes = config.privacy.unit == "client" and config.privacy.mechanism != "none"
        classes = answers if votes else answers.argmax(1)[:, None]
        accuracies += [float((c == test.labels).double().mean()) for c in classes.T[:20]]
    return {"accuracy": sum(accuracies) / len(accuracies), "each": accuracies}
