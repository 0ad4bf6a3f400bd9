"""Which data set this is, and where the ledger of its records lies."""

import hashlib
import json
import os
import uuid
from pathlib import Path

import numpy as np
import torch

from dpsd.config import NAMED, Config
from dpsd.data.load import PrivateData, Split
from dpsd.errors import UserError
from dpsd.files import write_json


def fingerprint(data: PrivateData) -> str:
    """BLAKE2b of the training images, labels and shape, in hex. Private.

    Whoever guesses the data can confirm the guess with it. The order of the rows counts.
    """
    digest = hashlib.blake2b(repr(tuple(data.train.images.shape)).encode(), digest_size=32)
    for tensor in (data.train.images, data.train.labels):
        digest.update(np.ascontiguousarray(tensor.cpu().numpy()).data)
    return digest.hexdigest()


def rows_fingerprint(data: PrivateData) -> str:
    """`fingerprint` of training and holdout rows together, 32 hex digits. Private."""
    whole = (torch.cat([getattr(s, part) for s in (data.train, data.holdout)])
             for part in ("images", "labels"))  # fmt: skip
    return fingerprint(PrivateData(Split(*whole), data.holdout, None))[:32]


def dataset_fingerprint(data: PrivateData) -> str:
    """BLAKE2b of all training and holdout rows, in any order and split, in hex. Private."""
    parts = [x for s in (data.train, data.holdout) for x in zip(s.images, s.labels, strict=True)]
    rows = sorted(
        hashlib.blake2b(image.cpu().numpy().tobytes() + b"%d" % int(label), digest_size=32).digest()
        for image, label in parts
    )
    shape = repr(tuple(data.train.images.shape[1:])).encode()
    return hashlib.blake2b(shape + b"".join(rows), digest_size=16).hexdigest()


def dataset_home(config: Config, data: PrivateData | None) -> dict[str, str]:
    """The home of the data set's ledger, made on first use: its `folder` and `uuid`.

    The same people's data must always find the same ledger. `teacher.dataset` names the data set.
    Without it, a named data set has its own name, wherever it lies. Any other data set is known by
    a private fingerprint of all its rows; `data` is read for this alone. A single changed row
    changes the fingerprint, so whoever corrects or extends data must set `teacher.dataset`.
    """
    t = config.teacher
    name = t.dataset or (config.data.name if config.data.name in NAMED else None)
    if name is None:
        assert data is not None
        name = dataset_fingerprint(data)
        before = rows_fingerprint(data)  # its name while the order of the rows counted
        if not (t.root / "datasets" / name).exists() and (t.root / "datasets" / before).exists():
            name = before  # a second ledger would forget what the first one holds
    home = t.root / "datasets" / name
    home.mkdir(parents=True, exist_ok=True)
    for path in (home, home.parent):
        os.chmod(path, 0o700)
    path = home / "dataset.json"
    if not path.exists():
        fresh = home / f".{uuid.uuid4()}"
        write_json(fresh, {"uuid": str(uuid.uuid4()), "name": name})
        try:
            os.link(fresh, path)  # of two processes, one wins and both read its UUID
        except FileExistsError:
            pass
        finally:
            fresh.unlink()
    return {"folder": os.path.relpath(home, t.root), "uuid": read_dataset(home)["uuid"]}


def read_dataset(folder: Path) -> dict[str, str]:
    """The `name` and `uuid` of the data set whose home is this folder.

    Raises:
        UserError: the folder holds no readable `dataset.json`.
    """
    try:
        facts = json.loads((folder / "dataset.json").read_text())
        return {"name": str(facts["name"]), "uuid": str(facts["uuid"])}
    except (OSError, ValueError, LookupError, TypeError) as e:
        raise UserError(f"{folder}: no home of a data set's ledger ({e}); restore it") from e
