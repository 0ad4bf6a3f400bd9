"""Which data set this is, and where the ledger of its records lies.

A data set is known by the name that its owner gives. Its content is never hashed into a name: one
mended row would begin a new ledger, and whether it did would be a bit about that row.
"""

import hashlib
import json
import os
import re
import uuid
from pathlib import Path

import numpy as np

from dpsd.config import NAMED, Config
from dpsd.config.rules import check_named
from dpsd.data.load import PrivateData, join_splits
from dpsd.data.rows import DiskRows
from dpsd.errors import UserError
from dpsd.files import make_once

_BY_CONTENT = re.compile("[0-9a-f]{32}")
_BATCH = 512


def fingerprint(data: PrivateData, *, read: bool = False) -> str:
    """BLAKE2b of the training images, labels and shape, in hex. Private.

    Whoever guesses the data can confirm the guess with it. The order of the rows counts. Files that
    stay on disk are known by name, size and time, unless they are to be `read`: an image that was
    changed, or copied without its time, is another one.
    """
    images = data.train.images
    digest = hashlib.blake2b(repr(tuple(images.shape)).encode(), digest_size=32)
    if isinstance(images, DiskRows) and not read:
        for number in images.numbers.tolist():
            digest.update(images.source.mark(number))
    else:
        for batch in images.split(_BATCH):
            digest.update(np.ascontiguousarray(batch.cpu().numpy()).data)
    digest.update(np.ascontiguousarray(data.train.labels.cpu().numpy()).data)
    return digest.hexdigest()


def rows_fingerprint(data: PrivateData, *, read: bool = False) -> str:
    """`fingerprint` of training and holdout rows together, 32 hex digits. Private."""
    whole = join_splits(data.train, data.holdout)
    return fingerprint(PrivateData(whole, data.holdout, None), read=read)[:32]


def dataset_fingerprint(data: PrivateData) -> str:
    """BLAKE2b of all training and holdout rows, in any order and split, in hex. Private.

    Older versions named ledgers by it.
    """
    whole = join_splits(data.train, data.holdout)
    images = (image for batch in whole.images.split(_BATCH) for image in batch)
    rows = sorted(
        hashlib.blake2b(image.cpu().numpy().tobytes() + b"%d" % int(label), digest_size=32).digest()
        for image, label in zip(images, whole.labels, strict=True)
    )
    shape = repr(tuple(data.train.images.shape[1:])).encode()
    return hashlib.blake2b(shape + b"".join(rows), digest_size=16).hexdigest()


def dataset_name(config: Config) -> str | None:
    """The data set's name: `data.dataset`, else a named data set's own. None: it has none."""
    return config.data.dataset or (config.data.name if config.data.name in NAMED else None)


def dataset_folder(root: Path, name: str) -> Path:
    """Where the ledger of a data set lies, below `teacher.root`."""
    return root / "datasets" / name


def dataset_home(config: Config, data: PrivateData | None, why: str) -> dict[str, str]:
    """The home of the data set's ledger, made on first use: its `folder` and `uuid`.

    Args:
        config: names the data set, and `teacher.root`, to which `folder` is relative.
        data: the rows, if they are at hand: ledgers of older versions, which were named by content,
            are looked for.
        why: needs a name, for the message.

    Raises:
        UserError: the data set has no name, or an older ledger under a name made of its content.
    """
    name = dataset_name(config)
    if name is None:
        try:
            check_named(config.data, why)
        except ValueError as e:
            raise UserError(str(e)) from e
    assert name is not None
    root = config.teacher.root
    home = dataset_folder(root, name)
    if data is not None and name not in NAMED:
        _refuse_older(root, name, data)
    home.mkdir(parents=True, exist_ok=True)
    for path in (home, home.parent):
        os.chmod(path, 0o700)
    path = home / "dataset.json"
    if not path.exists():
        facts = {"uuid": str(uuid.uuid4()), "name": name}
        make_once(path, json.dumps(facts, indent=2).encode() + b"\n")
    return {"folder": os.path.relpath(home, root), "uuid": read_dataset(home)["uuid"]}


def read_dataset(folder: Path) -> dict[str, str]:
    """The `name` and `uuid` of the data set whose home is this folder, which bears the name.

    Raises:
        UserError: the folder holds no readable `dataset.json`.
    """
    try:
        facts = json.loads((folder / "dataset.json").read_text())
        return {"name": folder.name, "uuid": str(facts["uuid"])}
    except (OSError, ValueError, LookupError, TypeError) as e:
        raise UserError(f"{folder}: no home of a data set's ledger ({e}); restore it") from e


def _refuse_older(root: Path, name: str, data: PrivateData) -> None:
    """A second ledger would forget what the first one, named by content, holds."""
    named_so = [p.name for p in (root / "datasets").glob("*") if _BY_CONTENT.fullmatch(p.name)]
    if not named_so and not _BY_CONTENT.fullmatch(name):
        return  # nobody reads a whole data set in vain
    for older in (dataset_fingerprint(data), rows_fingerprint(data, read=True)):
        folder = dataset_folder(root, older)
        if older == name:
            raise UserError(f"data.dataset: {name} is made of the data; accepted: another name")
        if folder.exists():
            raise UserError(
                f"data.dataset: {name}, but an older version entered releases about these data in "
                f"{folder}; move that folder to {dataset_folder(root, name)}, so that they go on "
                "counting"
            )
