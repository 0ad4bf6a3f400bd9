"""Private data as uint8 tensors, and the facts about them that are declared public."""

import difflib
import hashlib
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from dpsd import sources
from dpsd.errors import UserError
from dpsd.sections import DataConfig
from dpsd.users import held_users, read_user_ids

_FASHION = "T-shirt/top,Trouser,Pullover,Dress,Coat,Sandal,Shirt,Sneaker,Bag,Ankle boot"
_CIFAR = "airplane,automobile,bird,cat,deer,dog,frog,horse,ship,truck"
NAMED = {
    "digits": ((1, 28, 28), "0,1,2,3,4,5,6,7,8,9"),
    "mnist": ((1, 28, 28), "0,1,2,3,4,5,6,7,8,9"),
    "fashion_mnist": ((1, 28, 28), _FASHION),
    "cifar10": ((3, 32, 32), _CIFAR),
    "cifar10_jpeg": ((3, 32, 32), _CIFAR),
    "att_faces": ((1, 112, 92), ",".join(f"person {i}" for i in range(40))),
}
_OTHERS = ("image_folder", "npz", "none")
_ACCEPTED = f"{', '.join((*NAMED, *_OTHERS))} or an import path package.module:callable"


@dataclass(frozen=True)
class PublicFacts:
    """What everybody may know about the data. The statement repeats it."""

    shape: tuple[int, int, int]
    """Channels, height, width."""
    classes: int
    class_names: tuple[str, ...]
    pixel_range: tuple[int, int] = (0, 255)


@dataclass(frozen=True)
class Split:
    """Images uint8 [N, C, H, W] and their labels int64 [N]."""

    images: torch.Tensor
    labels: torch.Tensor

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class PrivateData:
    """Training rows less their last tenth, that tenth, and the test rows (None if there are none).

    Everything in here is private: it never reaches the student's or the generator's side.
    """

    train: Split
    holdout: Split
    test: Split | None


def public_facts(config: DataConfig) -> PublicFacts:
    """Shape, classes and pixel range from the configuration alone; no data are touched.

    Raises:
        UserError: an unknown name, a missing declaration, or one that contradicts a named set.
    """
    name, shape, classes = config.name, config.shape, config.classes
    if shape is not None and min(shape) < 1:
        raise UserError(f"data.shape: {list(shape)}; accepted: [C, H, W], each from 1")
    if name in NAMED:
        own_shape, names = NAMED[name]
        class_names = tuple(names.split(","))
        if classes not in (None, len(class_names)):
            raise UserError(f"data.classes: {classes}, but {name} has {len(class_names)}")
        resized = name == "att_faces" and shape is not None and shape[0] == 1
        if shape not in (None, own_shape) and not resized:
            raise UserError(f"data.shape: {list(shape or ())}, but {name} has {list(own_shape)}")
        return _private_facts(
            config, PublicFacts(shape or own_shape, len(class_names), class_names)
        )
    if name not in _OTHERS and ":" not in name:
        near = difflib.get_close_matches(name, [*NAMED, *_OTHERS], n=1)
        hint = f"; did you mean {near[0]}?" if near else ";"
        raise UserError(f"data.name: {name!r} is unknown{hint} accepted: {_ACCEPTED}")
    if shape is None or classes is None:
        key, what = ("shape", "[C, H, W]") if shape is None else ("classes", "a number from 2")
        raise UserError(f"data.{key}: missing; with data.name {name} declare {what}")
    if name == "image_folder" and shape[0] not in (1, 3):
        raise UserError(f"data.shape: {list(shape)}; an image folder has 1 (grey) or 3 channels")
    numbers = tuple(str(i) for i in range(classes))
    return _private_facts(config, PublicFacts(shape, classes, numbers))


def _private_facts(config: DataConfig, facts: PublicFacts) -> PublicFacts:
    """The same with the private classes of `data.split` alone, renumbered from 0."""
    split = config.split
    if split is None:
        return facts
    for key, classes in (("private", split.private), ("public", split.public)):
        if max(classes) >= facts.classes:
            accepted = f"0 to {facts.classes - 1} ({config.name} has {facts.classes} classes)"
            raise UserError(f"data.split.{key}: class {max(classes)}; accepted: {accepted}")
    names = tuple(facts.class_names[c] for c in split.private)
    return PublicFacts(facts.shape, len(names), names, facts.pixel_range)


def load_data(config: DataConfig) -> PrivateData:
    """Read, check and split the private data.

    The holdout is the last tenth of the training rows (at least one), or the rows of the last tenth
    of the roster where `data.user_ids` is set. Rows keep the order of their
    source, except where that order is by class: digits and image folders are shuffled with a fixed
    key, AT&T faces are interleaved person by person.

    Raises:
        UserError: one line with the field or file, what was found and what is accepted.
    """
    if config.split is not None:
        return _load_parted(config)
    facts, root, name = public_facts(config), config.folder(), config.name
    if config.rows is not None and name != "image_folder":
        raise UserError(f"data.rows: {config.rows}; accepted with data.name image_folder alone")
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
        train, test = sources.read_image_folder(root, facts.shape, facts.classes, config.rows)
    elif name == "npz":
        if config.root is None:
            raise UserError("data.root: missing; with data.name npz it is the path of the file")
        train, test = sources.as_tables(sources.read_npz(root), str(root))
    else:
        train, test = sources.read_imported(name)
    source = name if ":" in name or name == "digits" else f"{name} in {root}"
    rows = _split(train, facts, f"{source}: training")
    if len(rows) < 2:
        raise UserError(f"{source}: {len(rows)} training rows; at least 2 are needed")
    held = _held_out(config, len(rows))
    data = PrivateData(
        train=Split(rows.images[~held], rows.labels[~held]),
        holdout=Split(rows.images[held], rows.labels[held]),
        test=None if test is None else _split(test, facts, f"{source}: test"),
    )
    if set(data.holdout.labels.tolist()) - set(data.train.labels.tolist()):
        hint = "are the rows sorted by class? Shuffle them once"
        warnings.warn(
            f"{source}: the holdout has classes that training lacks; {hint}", stacklevel=2
        )
    return data


def _load_parted(config: DataConfig) -> PrivateData:
    """The private classes by the rows of `data.split`."""
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
    """What an attacker knows: rows of the public classes of `data.split`, labels 0 to their number.

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
    known = {x.numpy().tobytes() for x in private.images}
    shared = sum(x.numpy().tobytes() in known for x in public.images)
    if shared:
        raise UserError(
            f"data.split.public: {shared} of {len(public)} public images are private too; success "
            "of an attack would be faked; accepted: images that are in one of the two alone"
        )
    return public


def _numbered(config: DataConfig) -> tuple[Split, str]:
    """All rows of the source in order, training rows first, with the source's own classes."""
    data = load_data(config.model_copy(update={"split": None}))
    parts = [data.train, data.holdout, *([] if data.test is None else [data.test])]
    images, labels = (torch.cat([getattr(p, k) for p in parts]) for k in ("images", "labels"))
    return Split(images, labels), config.name


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
    return Split(rows.images[numbers[labels >= 0]], labels[labels >= 0])


def _held_out(config: DataConfig, rows: int) -> torch.Tensor:
    """Bool [rows]: the last tenth of the rows; by user, the rows of the last tenth of the roster.

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


def fingerprint(data: PrivateData) -> str:
    """BLAKE2b of the training images, labels and shape, in hex. Private: it confirms a guess."""
    digest = hashlib.blake2b(repr(tuple(data.train.images.shape)).encode(), digest_size=32)
    for tensor in (data.train.images, data.train.labels):
        digest.update(np.ascontiguousarray(tensor.cpu().numpy()).data)
    return digest.hexdigest()


def rows_fingerprint(data: PrivateData) -> str:
    """As `fingerprint`, of training and holdout rows together, in hex. Private."""
    whole = (torch.cat([getattr(s, part) for s in (data.train, data.holdout)])
             for part in ("images", "labels"))  # fmt: skip
    return fingerprint(PrivateData(Split(*whole), data.holdout, None))[:32]


def dataset_fingerprint(data: PrivateData) -> str:
    """Of all training and holdout rows in whatever order and split, in hex. Private."""
    parts = [x for s in (data.train, data.holdout) for x in zip(s.images, s.labels, strict=True)]
    rows = sorted(
        hashlib.blake2b(image.cpu().numpy().tobytes() + b"%d" % int(label), digest_size=32).digest()
        for image, label in parts
    )
    shape = repr(tuple(data.train.images.shape[1:])).encode()
    return hashlib.blake2b(shape + b"".join(rows), digest_size=16).hexdigest()


def _split(rows: sources.Rows, facts: PublicFacts, where: str) -> Split:
    images, labels = rows
    images = images[:, None] if images.ndim == 3 else images
    c, h, w = facts.shape
    if images.shape[1:] == (h, w, c) != facts.shape:
        images = np.moveaxis(images, 3, 1)
    if images.ndim != 4 or images.shape[1:] != facts.shape:
        size = f"{list(images.shape[1:])} each, data.shape is {list(facts.shape)}"
        raise UserError(f"{where} images are {size}")
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        kind = f"{labels.dtype} {list(labels.shape)}"
        raise UserError(f"{where} labels are {kind}; accepted: integers [N]")
    if len(labels) != len(images) or not len(labels):
        counts = f"{len(images)} images and {len(labels)} labels"
        raise UserError(f"{where} has {counts}; accepted: as many of each, at least 1")
    if labels.min() < 0 or labels.max() >= facts.classes:
        accepted = f"0 to {facts.classes - 1} (data.classes {facts.classes})"
        raise UserError(f"{where} labels: {labels.min()} to {labels.max()}; accepted: {accepted}")
    if images.dtype != np.uint8:
        numbers = images.dtype.kind in "fiu"
        extent = f" from {images.min():g} to {images.max():g}" if numbers else ""
        if images.dtype.kind != "f" or not (images.min() >= 0 and images.max() <= 1):
            given = f"{images.dtype}{extent}"
            raise UserError(f"{where} images are {given}; accepted: uint8, or floats from 0 to 1")
        images = np.rint(images.astype(np.float32) * 255).astype(np.uint8)
    pixels = torch.tensor(np.ascontiguousarray(images))
    return Split(pixels, torch.tensor(labels.astype(np.int64)))


def load_public_images(folder: Path, facts: PublicFacts) -> torch.Tensor:
    """All images under a folder that the user declares public, uint8 [N, C, H, W]."""
    return torch.from_numpy(sources.read_images(folder, facts.shape))
