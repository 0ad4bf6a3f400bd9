"""A node's private side: the clients that it hosts, their data, teachers and ledgers."""

import functools
import hashlib
import json
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from dpsd.config import NAMED, Config
from dpsd.console import Say
from dpsd.data.identity import rows_fingerprint
from dpsd.data.load import PrivateData, load_data
from dpsd.device import pick_device, pick_dtype
from dpsd.errors import UserError
from dpsd.federated.partition import (
    draw_partition,
    histograms,
    load_partition,
    partition,
    save_partition,
)
from dpsd.files import locked, make_once, whole_file
from dpsd.randomness import draw_key
from dpsd.teachers.members import KINDS, Members, Weights, chunks, member_choices, train_members
from dpsd.teachers.teacher import check_root, ensure_teacher, load_teacher

_PARTITION = ("clients", "partition", "alpha", "client_classes", "least_rows", "tries", "seed")
_LOCK = threading.Lock()


@dataclass(frozen=True)
class Home:
    """One node. It mostly hosts one client; with unit client it may host many.

    Attributes:
        clients: their numbers.
        folder: private; holds ledger or teachers, and `runs/`.
        teacher: maps uint8 images to the input of the client's mechanism. Where the server gets
            votes, that is the class that each hosted client names, int64 [B, clients].
        ledger_folder, ledger_uuid: where answers are charged.
        dataset: home and UUID of the client's own data set, in whose ledger each run is entered.
        labels: number of rows of each class, int64 [K]; released only with noise.
    """

    clients: list[int]
    folder: Path
    teacher: Callable[[Tensor], Tensor]
    ledger_folder: Path
    ledger_uuid: str
    labels: Tensor
    dataset: tuple[Path, str] | None = None


def federation_folder(config: Config) -> Path:
    """The folder of a federation in process: partition, picture, ledger and `clients/`.

    With partition own it depends on the data's name alone. A client that takes part in another
    federation under the same number has the same teacher and the same ledger there.
    """
    f, d = config.federated.model_dump(), config.data
    facts = {k: f[k] for k in _PARTITION} | {"data": d.name}
    if config.federated.partition == "own":
        facts = {"partition": "own", "data": d.name}
    else:  # one data set is dealt; a data set with a name is the same wherever it lies
        unnamed = d.root is not None and d.name not in NAMED
        facts |= {"root": str(d.root.absolute())} if unnamed and d.root is not None else {}
        facts |= {"split": d.split.model_dump_json()} if d.split is not None else {}
        for key in ("rows", "user_ids"):  # their content decides who has which rows
            if (file := getattr(d, key)) is not None:
                facts[key] = hashlib.blake2b(_content(file, key), digest_size=16).hexdigest()
    name = hashlib.blake2b(json.dumps(facts, sort_keys=True).encode(), digest_size=8).hexdigest()
    return config.teacher.root / "federated" / name


def _content(file: Path, key: str) -> bytes:
    try:
        return file.read_bytes()
    except OSError as e:
        raise UserError(f"data.{key}: {file}: cannot be read: {e}") from e


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
    """Row numbers of each client, from the federation's index file. The first call makes the file.

    Raises:
        UserError: the file was made for other data.
    """
    folder = federation_folder(config)
    with _LOCK:
        path, dealt = folder / "partition.npz", rows_fingerprint(data)
        if not path.exists():
            rows = partition(config, data)
            folder.mkdir(parents=True, exist_ok=True)
            os.chmod(folder, 0o700)
            counts = histograms(rows, data.train.labels, config.facts.classes)
            draw_partition(folder / "partition.png", counts)
            save_partition(path, rows, dealt)
        return load_partition(path, dealt)


def open_home(config: Config, node: int, say: Say = lambda text: None) -> Home:
    """A node's private side; missing teachers are trained first.

    Args:
        config: the node's own.
        node: the node's number; the client's number where each node hosts one client.
        say: receives progress.

    Raises:
        UserError: the data or the partition do not fit.
    """
    check_root(config)
    clients = hosted(config, node)
    data = _cached_data(config)
    shards = None if config.federated.partition == "own" else client_rows(config, data)
    everything = torch.arange(len(data.train))
    rows = {i: everything if shards is None else shards[i] for i in clients}
    name = str(clients[0]) if len(clients) == 1 else f"{clients[0]}-{clients[-1]}"
    folder = federation_folder(config) / "clients" / name
    folder.mkdir(parents=True, exist_ok=True)
    os.chmod(folder, 0o700)
    with locked(folder):  # a repeated request starts a second process
        return _open(config, clients, folder, data, rows, say)


def _open(
    config: Config, clients: list[int], folder: Path, data: PrivateData, rows: dict[int, Tensor],
    say: Say,
) -> Home:  # fmt: skip
    name, classes = folder.name, config.facts.classes
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
    mine = config.federated.partition == "own"
    if mine:  # a data set and a teacher like any other, whatever the client's number
        own = config
    found = ensure_teacher(own, lambda text: say(f"client {name}: {text}"), data=private)
    ask = load_teacher(own, found)
    if config.privacy.unit == "client" and config.privacy.mechanism != "none":
        ask = chosen(ask)
    ledger, dataset = found.ledger(config.privacy.unit), found.dataset() if mine else None
    return Home(clients, folder, ask, *ledger, labels, dataset)


def _of(data: PrivateData, rows: Tensor) -> PrivateData:
    """A client's data. All clients share the holdout, which measures teachers and trains none."""
    return PrivateData(data.train.pick(rows), data.holdout, None)


def chosen(ask: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """A function that gives a client's votes, int64 [B, 1]; class 0 where a logit is not finite."""

    def choose(images: Tensor) -> Tensor:
        logits = ask(images).cpu()
        good = logits.isfinite().all(1)
        return torch.where(good, logits.argmax(1), 0)[:, None]

    return choose


def _members(
    config: Config, folder: Path, data: PrivateData, rows: dict[int, Tensor], say: Say
) -> tuple[Callable[[Tensor], Tensor], Path]:
    """The votes of many clients' teachers, trained a stack at a time, and the teachers' folder."""
    t, facts, device = config.teacher, config.facts, pick_device(config.device)
    if t.model not in KINDS:
        raise UserError(
            f"teacher.model: {t.model} with federated.nodes {config.federated.nodes}; accepted "
            f"where a node hosts many clients: {', '.join(KINDS)}"
        )
    dtype = pick_dtype(config.precision, device)
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
        with whole_file(path) as partial:
            save_file(weights, partial)
    choose = member_choices(t.model, facts, load_file(path), device, dtype)
    return lambda images: choose(images).mT, path.parent


def folder_uuid(folder: Path) -> str:
    """The id of a folder's ledger. The first call makes it."""
    path = folder / "uuid"
    if not path.exists():
        make_once(path, str(uuid4()).encode())
    return path.read_text()


@functools.lru_cache(maxsize=2)
def _data_by_text(text: str) -> PrivateData:
    from dpsd.config.sections import DataConfig

    return load_data(DataConfig.model_validate_json(text))


def _cached_data(config: Config) -> PrivateData:
    with _LOCK:
        return _data_by_text(config.data.model_dump_json())
