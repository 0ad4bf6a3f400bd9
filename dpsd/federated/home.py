"""A node's private side: the clients that it hosts, their teachers, ledgers and paid answers.

Nothing in here believes the server: the plan is the node's own configuration's, each answer is
charged to the client's ledger before it is given, and no image is answered twice. A repeated
request gets the stored answer.
"""

import functools
import hashlib
import json
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from dpsd.config import Config
from dpsd.data import PrivateData, Split, load_data, public_facts
from dpsd.device import pick_device, pick_dtype
from dpsd.ensemble import KINDS, Members, Weights, chunks, member_choices, train_members
from dpsd.errors import BudgetError, UserError
from dpsd.federated.messages import Request, digest
from dpsd.federated.partition import (
    draw_partition,
    histograms,
    load_partition,
    partition,
    save_partition,
)
from dpsd.federated.plan import Combined, GivenVotes, home_plan
from dpsd.keyed import draw_key
from dpsd.privacy.ledger import HASH_BYTES, Ledger
from dpsd.privacy.mechanisms import Answers
from dpsd.privacy.noise import NoiseSource
from dpsd.privacy.oracle import Oracle, keep_release, load_release
from dpsd.privacy.plan import Plan, make_plan
from dpsd.teacher import ensure_teacher, load_teacher

Say = Callable[[str], None]
_PARTITION = ("clients", "partition", "alpha", "client_classes", "least_rows", "tries", "seed")
_LOCK = threading.Lock()


@dataclass(frozen=True)
class Home:
    """One node: mostly one client; with unit client it may host many.

    Attributes:
        clients: their numbers.
        folder: private; holds ledger or teachers, and `runs/`.
        teacher: uint8 images -> what the client's mechanism takes; where votes are given to the
            server, the class that each hosted client names, int64 [B, clients].
        ledger_folder, ledger_uuid: where answers are charged.
        labels: rows of each class, int64 [K]; released with noise alone.
    """

    clients: list[int]
    folder: Path
    teacher: Callable[[Tensor], Tensor]
    ledger_folder: Path
    ledger_uuid: str
    labels: Tensor


class _VotesOracle(Oracle):
    """Passes on the classes that the hosted clients name; int64 [B, clients]."""

    def _ask(self, images: Tensor) -> Tensor:
        with torch.inference_mode():
            return torch.cat([self._teacher(part) for part in images.split(self._batch)])


def federation_folder(config: Config) -> Path:
    """The home of a federation in process: partition, picture, ledger and `clients/`."""
    f = config.federated.model_dump()
    facts = {k: f[k] for k in _PARTITION} | {"data": config.data.name}
    name = hashlib.blake2b(json.dumps(facts, sort_keys=True).encode(), digest_size=8).hexdigest()
    return config.teacher.root / "federated" / name


def hosted(config: Config, node: int) -> list[int]:
    """The numbers of the clients on a node.

    Raises:
        UserError: no such node.
    """
    f = config.federated
    nodes = f.nodes or f.clients
    if not 0 <= node < nodes:
        raise UserError(f"node config client: {node}; accepted: 0 to {nodes - 1}")
    return [int(i) for i in np.array_split(np.arange(f.clients), nodes)[node]]


def client_rows(config: Config, data: PrivateData) -> list[Tensor]:
    """Row numbers of each client, from the federation's index file, which is made on first use."""
    folder = federation_folder(config)
    with _LOCK:
        path = folder / "partition.npz"
        if not path.exists():
            rows = partition(config, data)
            folder.mkdir(parents=True, exist_ok=True)
            os.chmod(folder, 0o700)
            counts = histograms(rows, data.train.labels, public_facts(config.data).classes)
            draw_partition(folder / "partition.png", counts)
            save_partition(path, rows)
        return load_partition(path)


def open_home(config: Config, node: int, say: Say = lambda text: None) -> Home:
    """A node's private side; missing teachers are trained first.

    Args:
        config: the node's own.
        node: its number; the client's where each node hosts one.
        say: receives progress.

    Raises:
        UserError: data or partition that do not fit.
    """
    clients = hosted(config, node)
    data = _cached_data(config)
    shards = None if config.federated.partition == "own" else client_rows(config, data)
    everything = torch.arange(len(data.train))
    rows = {i: everything if shards is None else shards[i] for i in clients}
    name = str(clients[0]) if len(clients) == 1 else f"{clients[0]}-{clients[-1]}"
    folder = federation_folder(config) / "clients" / name
    folder.mkdir(parents=True, exist_ok=True)
    os.chmod(folder, 0o700)
    classes = public_facts(config.data).classes
    labels = histograms([torch.cat(list(rows.values()))], data.train.labels, classes)[0]
    if len(clients) > 1:
        choose, home = _members(config, folder, data, rows, say)
        return Home(clients, folder, choose, home, folder_uuid(home), labels)
    private = _of(data, rows[clients[0]])
    own = config.model_copy(
        update={
            "teacher": config.teacher.model_copy(update={"root": folder}),
            "data": config.data.model_copy(update={"user_ids": None}),
        }
    )
    found = ensure_teacher(own, lambda text: say(f"client {name}: {text}"), data=private)
    ask = load_teacher(own, found)
    if config.privacy.unit == "client" and config.privacy.mechanism != "none":
        ask = chosen(ask)
    return Home(clients, folder, ask, found.ledger_folder, found.ledger_uuid, labels)


def answer(config: Config, home: Home, request: Request) -> Answers:
    """Answer a request through the client's own oracle, or give the stored answer again.

    Raises:
        BudgetError: the client's budget or its no-image-twice rule does not allow it.
        UserError: another question at a position that was answered before.
    """
    plan, keep = home_plan(make_plan(config)), run_folder(home, request.run)
    named = torch.frombuffer(bytearray(digest(request.images)), dtype=torch.uint8)
    if (keep / f"{request.position:012d}.safetensors").exists():
        asked, answers = load_release(keep, request.position)
        if not torch.equal(asked, named):
            raise UserError(f"request: other images than before at position {request.position}")
        return answers
    ledger = Ledger(home.ledger_folder, home.ledger_uuid)
    _check_runs(config, ledger, request.run)
    kind = _VotesOracle if isinstance(plan.mechanism, GivenVotes) else Oracle
    oracle = kind(home.teacher, plan, ledger, request.run, seed=_seed(config, home))
    prior = request.prior
    answers = oracle.answer(request.images, None if prior is None else lambda images: prior)
    keep_release(keep, request.position, named, answers)
    return answers


def noisy_labels(config: Config, home: Home, run: str) -> Tensor:
    """The label histogram with noise, int64 [K]: charged once, then the stored one.

    Unit: one record. L2 sensitivity sqrt(2): a replaced record leaves a count and enters another.
    Without a privacy claim (mechanism none) there is no noise.

    Raises:
        BudgetError: the plan has no label histogram.
    """
    plan = make_plan(config)
    path = run_folder(home, run) / "labels.safetensors"
    if path.exists():
        return load_file(path)["labels"]
    noisy = home.labels
    if plan.mechanism.name != "none":
        noisy = noisy + _labels_noise(config, home, plan, run)
    save_file({"labels": noisy}, path.with_suffix(".partial"))
    os.replace(path.with_suffix(".partial"), path)
    return noisy


def labels_run(run: str) -> str:
    """The ledger's name for the label histogram of a run: a line of its own."""
    return f"{run} labels"


def run_folder(home: Home, run: str) -> Path:
    """Where a client keeps what it has answered in a run. Private."""
    if not run.replace("-", "").isalnum():
        raise UserError(f"request: run {run!r:.40}; accepted: letters, digits and dashes")
    folder = home.folder / "runs" / run
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _labels_noise(config: Config, home: Home, plan: Plan, run: str) -> Tensor:
    from dpsd.privacy.accounting import VotesRelease

    mechanism = plan.mechanism
    if not isinstance(mechanism, Combined) or mechanism.labels_sigma is None:
        raise BudgetError("federated.aggregate: the plan has no label histogram")
    ledger = Ledger(home.ledger_folder, home.ledger_uuid)
    _check_runs(config, ledger, run)
    sigma, seeded = mechanism.labels_sigma, plan.seeded_noise
    ledger.open_run(labels_run(run), VotesRelease(sigma), 1, 1, seeded, "", plan.unit)
    ledger.charge(labels_run(run), 0, np.frombuffer(b"label histogram ", f"V{HASH_BYTES}"))
    source = NoiseSource(f"dpsd labels {_seed(config, home)}".encode() if seeded else None)
    return torch.from_numpy(source.discrete_gaussians((mechanism.classes,), sigma))


def _check_runs(config: Config, ledger: Ledger, run: str) -> None:
    """Refuse one run more than the client wants to take part in."""
    most = config.federated.runs
    others = {r.run.split()[0] for r in ledger.runs()} - {run}
    if most is not None and len(others) >= most:
        raise BudgetError(f"federated.runs: {len(others)} runs were answered; accepted: {most}")


def _seed(config: Config, home: Home) -> int:
    """Of a client's noise where it is seeded, which is never private."""
    text = f"{config.seed} client {home.clients[0]}".encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=7).digest(), "little")


def _of(data: PrivateData, rows: Tensor) -> PrivateData:
    """A client's data. The holdout is common: it measures and trains nobody."""
    return PrivateData(Split(data.train.images[rows], data.train.labels[rows]), data.holdout, None)


def chosen(ask: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """One client's vote, int64 [B, 1]; class 0 where its logits are not all finite."""

    def choose(images: Tensor) -> Tensor:
        logits = ask(images).cpu()
        good = logits.isfinite().all(1)
        return torch.where(good, logits.argmax(1), 0)[:, None]

    return choose


def _members(
    config: Config, folder: Path, data: PrivateData, rows: dict[int, Tensor], say: Say
) -> tuple[Callable[[Tensor], Tensor], Path]:
    """Teachers of many clients on one node, trained a stack at a time, and their folder."""
    t, facts, device = config.teacher, public_facts(config.data), pick_device(config.device)
    if t.model not in KINDS:
        raise UserError(
            f"teacher.model: {t.model} with federated.nodes {config.federated.nodes}; accepted "
            f"where a node hosts many clients: {', '.join(KINDS)}"
        )
    dtype = pick_dtype(config, device)
    recipe = {k: getattr(t, k) for k in ("model", "augment", "copies", "ridge", "seed",
                                         "shard_steps", "shard_batch", "lr")}  # fmt: skip
    name = hashlib.blake2b(json.dumps(recipe).encode(), digest_size=8).hexdigest()
    path = folder / name / "weights.safetensors"
    if not path.exists():
        path.parent.mkdir(exist_ok=True)
        parts: list[Weights] = []
        key, numbers = draw_key(), list(rows)
        for chunk in chunks(len(numbers)):
            mine = {numbers[j]: rows[numbers[j]] for j in chunk}
            members = Members(data.train.images, data.train.labels, mine, key)
            parts.append(train_members(t, facts, members, device=device, dtype=dtype))
            say(f"clients {numbers[0]}-{numbers[-1]}: {chunk.stop} of {len(numbers)} trained")
        weights = {k: torch.cat([p[k] for p in parts]) for k in parts[0]}
        save_file(weights, path.with_suffix(".partial"))
        os.replace(path.with_suffix(".partial"), path)
    choose = member_choices(t.model, facts, load_file(path), device, dtype)
    return lambda images: choose(images).mT, path.parent


def folder_uuid(folder: Path) -> str:
    """The name under which a folder's ledger is known, made on first use."""
    from uuid import uuid4

    path = folder / "uuid"
    if not path.exists():
        path.write_text(str(uuid4()))
    return path.read_text()


@functools.lru_cache(maxsize=2)
def _data_by_text(text: str) -> PrivateData:
    from dpsd.sections import DataConfig

    return load_data(DataConfig.model_validate_json(text))


def _cached_data(config: Config) -> PrivateData:
    with _LOCK:
        return _data_by_text(config.data.model_dump_json())
