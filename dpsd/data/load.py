"""Private data: uint8 images, in memory or on disk, and their labels."""

import hashlib
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from dpsd.config import NUMBERED, PublicFacts, public_facts
from dpsd.config.sections import DataConfig
from dpsd.data import sources
from dpsd.data.archives import as_pixels, is_mapped, mapped_rows, read_npz
from dpsd.data.folders import image_rows, read_image_folder
from dpsd.data.rows import DiskRows, Images, fits_in_memory, join, on_disk_line, pick
from dpsd.data.tars import read_webdataset
from dpsd.data.users import held_users, read_user_ids
from dpsd.errors import UserError

_BATCH = 512


@dataclass(frozen=True)
class Split:
    """Images uint8 [N, C, H, W], in memory or on disk, and their labels int64 [N]."""

    images: Images
    labels: torch.Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def pick(self, rows: torch.Tensor) -> "Split":
        """The rows of these numbers, int64 [M], or of this mask, bool [N]."""
        return Split(pick(self.images, rows), self.labels[rows])


def join_splits(*splits: Split) -> Split:
    """The rows of all splits of one data set, one split after the other."""
    return Split(join(s.images for s in splits), torch.cat([s.labels for s in splits]))


@dataclass(frozen=True)
class PrivateData:
    """Training rows, holdout rows and test rows (None if there are none).

    All of it is private. It never reaches the student's or the generator's side.
    """

    train: Split
    holdout: Split
    test: Split | None


def load_data(config: DataConfig) -> PrivateData:
    """Read, check and split the private data.

    The holdout is the last tenth of the training rows, at least one. With `data.user_ids` it is all
    rows of the last tenth of the roster. Rows keep the order of their source, except where that
    order is by class. Digits, and image folders and WebDataset shards without a manifest, are
    shuffled with a fixed key; AT&T faces are interleaved person by person.

    Images of folders, shards and uncompressed archives stay on disk where they would take more than
    `dpsd.data.rows.IN_MEMORY_BYTES` once decoded. The rows and their order are the same.

    Raises:
        UserError: one line with the field or file, what was found and what is accepted.
    """
    if config.split is not None:
        return _load_parted(config)
    facts, root, name = public_facts(config), config.folder(), config.name
    if config.rows is not None and name not in NUMBERED:
        accepted = f"accepted with data.name {' or '.join(NUMBERED)}"
        raise UserError(f"data.rows: {config.rows} with data.name {name}; {accepted}")
    if name == "none":
        raise UserError("data.name: none, so there are only a checkpoint and no data to read")
    if name == "digits":
        train, test = sources.read_digits()
    elif name in ("mnist", "fashion_mnist", "cifar10"):
        train, test = sources.read_torchvision(name, root)
    elif name == "cifar10_jpeg":
        train, test = sources.read_cifar10_jpeg(root / "cifar10_jpeg.npz")
    elif name == "att_faces":
        train, test = sources.read_att_faces(root / "att_faces.npz", facts.shape)
    elif name == "image_folder":
        train, test = read_image_folder(root, facts.shape, facts.classes, config.rows)
    elif name == "webdataset":
        train, test = read_webdataset(root, facts.shape, config.rows)
    elif name == "npz":
        if config.root is None:
            raise UserError("data.root: missing; with data.name npz it is the path of the file")
        train, test = sources.as_tables(read_npz(root), str(root))
    else:
        train, test = sources.read_imported(name)
    source = name if ":" in name or name == "digits" else f"{name} in {root}"
    rows = as_split(train, facts, f"{source}: training")
    if len(rows) < 2:
        raise UserError(f"{source}: {len(rows)} training rows; at least 2 are needed")
    held = _held_out(config, len(rows))
    data = _decoded_if_small(
        rows.pick(~held), rows.pick(held),
        None if test is None else as_split(test, facts, f"{source}: test"),
    )  # fmt: skip
    if set(data.holdout.labels.tolist()) - set(data.train.labels.tolist()):
        hint = "are the rows sorted by class? Shuffle them once"
        warnings.warn(
            f"{source}: the holdout has classes that training lacks; {hint}", stacklevel=2
        )
    return data


def _decoded_if_small(train: Split, holdout: Split, test: Split | None) -> PrivateData:
    """The data, in memory where their images are small enough together."""
    data = PrivateData(train, holdout, test)
    if not fits_in_memory(sum(s.images.shape.numel() for s in _splits(data))):
        return data

    def decoded(split: Split) -> Split:
        return Split(split.images[:], split.labels)

    return PrivateData(decoded(train), decoded(holdout), None if test is None else decoded(test))


def _splits(data: PrivateData) -> list[Split]:
    return [data.train, data.holdout, *([] if data.test is None else [data.test])]


def where_rows_lie(data: PrivateData) -> str | None:
    """A sentence for the user where the images stay on disk; None where they are in memory."""
    on_disk = [s.images for s in _splits(data) if isinstance(s.images, DiskRows)]
    if not on_disk:
        return None
    return on_disk_line(sum(map(len, on_disk)), sum(images.nbytes for images in on_disk))


def _load_parted(config: DataConfig) -> PrivateData:
    """The rows of the private classes, split as `data.split` says."""
    public_facts(config)
    split = config.split
    assert split is not None
    rows, where = _numbered(config)
    parts = {
        name: _picked(rows, getattr(split, name), split.private, f"{where}: data.split.{name}")
        for name in ("train", "holdout", "test")
        if getattr(split, name)
    }
    return PrivateData(parts["train"], parts["holdout"], parts.get("test"))


def load_public_classes(config: DataConfig) -> Split:
    """The attacker's data: training rows of the public classes of `data.split`, labels from 0.

    Raises:
        UserError: no split, rows that the source does not have, or an image that is private too.
    """
    split = config.split
    if split is None:
        raise UserError("data.split: null, so nothing is known to an attacker; name a split")
    public_facts(config)
    rows, where = _numbered(config)
    public = _picked(rows, split.train, split.public, f"{where}: public data.split.train")
    everything = (*split.train, *split.holdout, *split.test)
    private = _picked(rows, everything, split.private, f"{where}: data.split")
    known = set(_hashes(private.images))
    shared = sum(x in known for x in _hashes(public.images))
    if shared:
        raise UserError(
            f"data.split.public: {shared} of {len(public)} public images are private too; success "
            "of an attack would be faked; accepted: images that are in one of the two alone"
        )
    return public


def _hashes(images: Images) -> Iterator[bytes]:
    """BLAKE2b of each image."""
    for batch in images.split(_BATCH):
        for image in batch:
            yield hashlib.blake2b(image.numpy().tobytes(), digest_size=16).digest()


def _numbered(config: DataConfig) -> tuple[Split, str]:
    """All rows of the source in order, training rows first, with the source's own classes."""
    data = load_data(config.model_copy(update={"split": None}))
    return join_splits(*_splits(data)), config.name


def _picked(
    rows: Split, ranges: tuple[tuple[int, int], ...], classes: tuple[int, ...], where: str
) -> Split:
    last = max(end for _, end in ranges)
    if last > len(rows):
        raise UserError(f"{where}: rows up to {last}, but there are {len(rows)}")
    numbers = torch.cat([torch.arange(start, end) for start, end in ranges])
    place = torch.full((int(rows.labels.max()) + 1 + max(classes),), -1)
    place[torch.tensor(classes)] = torch.arange(len(classes))
    labels = place[rows.labels[numbers]]
    found = labels.unique()
    if len(found[found >= 0]) != len(classes):
        raise UserError(f"{where}: no row of some of the classes {list(classes)}")
    return Split(pick(rows.images, numbers[labels >= 0]), labels[labels >= 0])


def _held_out(config: DataConfig, rows: int) -> torch.Tensor:
    """The rows held out, bool [rows]: the last tenth, or all rows of the roster's last tenth.

    Which rows are held out may depend on the number of rows or on the roster, never on content.
    """
    if config.user_ids is None:
        return torch.arange(rows) >= rows - max(1, rows // 10)
    user_of, roster = read_user_ids(config.user_ids, rows)
    held = user_of >= roster - held_users(roster)
    if bool(held.all()) or not bool(held.any()):
        part = "last tenth" if not held.any() else "first nine tenths"
        raise UserError(f"data.user_ids: {config.user_ids}: the {part} of the roster has no rows")
    return held


def as_split(rows: sources.Rows, facts: PublicFacts, where: str) -> Split:
    """Rows as they came from a source, checked.

    Args:
        rows: images and labels.
        facts: shape and classes that they must have.
        where: for messages.

    Raises:
        UserError: labels or images of another kind.
    """
    images, labels = rows
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        kind = f"{labels.dtype} {list(labels.shape)}"
        raise UserError(f"{where} labels are {kind}; accepted: integers [N]")
    if len(labels) != len(images) or not len(labels):
        counts = f"{len(images)} images and {len(labels)} labels"
        raise UserError(f"{where} has {counts}; accepted: as many of each, at least 1")
    if labels.min() < 0 or labels.max() >= facts.classes:
        accepted = f"0 to {facts.classes - 1} (data.classes {facts.classes})"
        raise UserError(f"{where} labels: {labels.min()} to {labels.max()}; accepted: {accepted}")
    checked = images if isinstance(images, DiskRows) else _checked(images, facts, where)
    return Split(checked, torch.tensor(labels.astype(np.int64)))


def _checked(images: sources.Array, facts: PublicFacts, where: str) -> Images:
    """The images of an array as uint8 [N, C, H, W]; on disk where the array lies there."""
    images = images[:, None] if images.ndim == 3 else images
    c, h, w = facts.shape
    if images.shape[1:] == (h, w, c) != facts.shape:
        images = np.moveaxis(images, 3, 1)
    if images.ndim != 4 or images.shape[1:] != facts.shape:
        size = f"{list(images.shape[1:])} each, data.shape is {list(facts.shape)}"
        raise UserError(f"{where} images are {size}")
    if images.dtype != np.uint8:
        numbers = images.dtype.kind in "fiu"
        extent = f" from {images.min():g} to {images.max():g}" if numbers else ""
        if images.dtype.kind != "f" or not (images.min() >= 0 and images.max() <= 1):
            given = f"{images.dtype}{extent}"
            raise UserError(f"{where} images are {given}; accepted: uint8, or floats from 0 to 1")
    if is_mapped(images):
        return mapped_rows(images)
    return torch.tensor(np.ascontiguousarray(as_pixels(images)))


def load_public_images(folder: Path, facts: PublicFacts) -> Images:
    """All images under a folder that the user declares public, uint8 [N, C, H, W].

    Many of them (`fits_in_memory`) stay on disk.
    """
    images = image_rows(folder, facts.shape)
    return images[:] if fits_in_memory(images.nbytes) else images
