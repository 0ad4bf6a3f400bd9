"""Private data as uint8 tensors, and the facts about them that are declared public."""

import contextlib
import difflib
import hashlib
import io
import sys
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps

from dpsd.config import DataConfig
from dpsd.errors import UserError
from dpsd.imports import brief, import_object

Array = NDArray[Any]
Rows = tuple[Array, Array]
Tables = tuple[Rows, Rows | None]

_FASHION = "T-shirt/top,Trouser,Pullover,Dress,Coat,Sandal,Shirt,Sneaker,Bag,Ankle boot"
_CIFAR = "airplane,automobile,bird,cat,deer,dog,frog,horse,ship,truck"
_NAMED = {
    "digits": ((1, 28, 28), "0,1,2,3,4,5,6,7,8,9"),
    "mnist": ((1, 28, 28), "0,1,2,3,4,5,6,7,8,9"),
    "fashion_mnist": ((1, 28, 28), _FASHION),
    "cifar10": ((3, 32, 32), _CIFAR),
    "cifar10_jpeg": ((3, 32, 32), _CIFAR),
    "att_faces": ((1, 112, 92), ",".join(f"person {i}" for i in range(40))),
}
_OTHERS = ("image_folder", "npz", "none")
_ACCEPTED = f"{', '.join((*_NAMED, *_OTHERS))} or an import path package.module:callable"
_BILINEAR = Image.Resampling.BILINEAR
_SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"}


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
    if name in _NAMED:
        own_shape, names = _NAMED[name]
        class_names = tuple(names.split(","))
        if classes not in (None, len(class_names)):
            raise UserError(f"data.classes: {classes}, but {name} has {len(class_names)}")
        resized = name == "att_faces" and shape is not None and shape[0] == 1
        if shape not in (None, own_shape) and not resized:
            raise UserError(f"data.shape: {list(shape or ())}, but {name} has {list(own_shape)}")
        return PublicFacts(shape or own_shape, len(class_names), class_names)
    if name not in _OTHERS and ":" not in name:
        near = difflib.get_close_matches(name, [*_NAMED, *_OTHERS], n=1)
        hint = f"; did you mean {near[0]}?" if near else ";"
        raise UserError(f"data.name: {name!r} is unknown{hint} accepted: {_ACCEPTED}")
    if shape is None or classes is None:
        key, what = ("shape", "[C, H, W]") if shape is None else ("classes", "a number from 2")
        raise UserError(f"data.{key}: missing; with data.name {name} declare {what}")
    if name == "image_folder" and shape[0] not in (1, 3):
        raise UserError(f"data.shape: {list(shape)}; an image folder has 1 (grey) or 3 channels")
    return PublicFacts(shape, classes, tuple(str(i) for i in range(classes)))


def load_data(config: DataConfig) -> PrivateData:
    """Read, check and split the private data.

    The holdout is the last tenth of the training rows (at least one). Rows keep the order of their
    source, except where that order is by class: digits and image folders are shuffled with a fixed
    key, AT&T faces are interleaved person by person.

    Raises:
        UserError: one line with the field or file, what was found and what is accepted.
    """
    facts, root, name = public_facts(config), config.folder(), config.name
    if name == "none":
        raise UserError("data.name: none, so there are only a checkpoint and no data to read")
    if name == "digits":
        train, test = _digits()
    elif name in ("mnist", "fashion_mnist", "cifar10"):
        train, test = _torchvision(name, root)
    elif name == "cifar10_jpeg":
        train, test = _cifar10_jpeg(root / "cifar10_jpeg.npz")
    elif name == "att_faces":
        train, test = _att_faces(root / "att_faces.npz", facts)
    elif name == "image_folder":
        train, test = _image_folder(root, facts)
    elif name == "npz":
        if config.root is None:
            raise UserError("data.root: missing; with data.name npz it is the path of the file")
        train, test = _tables(_read_npz(root), str(root))
    else:
        train, test = _imported(name)
    source = name if ":" in name or name == "digits" else f"{name} in {root}"
    rows = _split(train, facts, f"{source}: training")
    if len(rows) < 2:
        raise UserError(f"{source}: {len(rows)} training rows; at least 2 are needed")
    cut = len(rows) - max(1, len(rows) // 10)
    data = PrivateData(
        train=Split(rows.images[:cut], rows.labels[:cut]),
        holdout=Split(rows.images[cut:], rows.labels[cut:]),
        test=None if test is None else _split(test, facts, f"{source}: test"),
    )
    if set(data.holdout.labels.tolist()) - set(data.train.labels.tolist()):
        hint = "are the rows sorted by class? Shuffle them once"
        warnings.warn(
            f"{source}: the holdout has classes that training lacks; {hint}", stacklevel=2
        )
    return data


def fingerprint(data: PrivateData) -> str:
    """BLAKE2b of the training images, labels and shape, in hex. Private: it confirms a guess."""
    digest = hashlib.blake2b(repr(tuple(data.train.images.shape)).encode(), digest_size=32)
    for tensor in (data.train.images, data.train.labels):
        digest.update(np.ascontiguousarray(tensor.cpu().numpy()).data)
    return digest.hexdigest()


def _split(rows: Rows, facts: PublicFacts, where: str) -> Split:
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


def _shuffled(rows: Rows) -> Rows:
    # RandomState, because numpy promises that its streams never change.
    order = np.random.RandomState(20260119).permutation(len(rows[1]))
    return rows[0][order], rows[1][order]


def _digits() -> Tables:
    from sklearn.datasets import load_digits

    bunch = load_digits()
    small = torch.tensor(bunch.images, dtype=torch.float32)[:, None] / 16 * 255
    large = torch.nn.functional.interpolate(small, (28, 28), mode="bilinear", align_corners=False)
    images, labels = _shuffled((large.round().to(torch.uint8).numpy(), bunch.target))
    n_test = len(labels) // 5
    return (images[n_test:], labels[n_test:]), (images[:n_test], labels[:n_test])


def _torchvision(name: str, root: Path) -> Tables:
    from torchvision import datasets

    kind = {"mnist": "MNIST", "fashion_mnist": "FashionMNIST", "cifar10": "CIFAR10"}[name]
    folder = root / ("cifar-10-batches-py" if name == "cifar10" else f"{kind}/raw")
    download = not (folder.is_dir() and any(folder.iterdir()))
    try:
        with contextlib.redirect_stdout(sys.stderr):
            parts = [
                getattr(datasets, kind)(root, train=t, download=download) for t in (True, False)
            ]
        train, test = ((np.asarray(part.data), np.asarray(part.targets)) for part in parts)
    except Exception as e:
        state = "not found, and its download failed" if download else "incomplete or damaged"
        hint = "point data.root or $DPSD_DATA to its parent, or empty it to download again"
        raise UserError(f"data.root: {name} in {folder}: {state} ({brief(e)}); {hint}") from e
    return train, test


def _cifar10_jpeg(path: Path) -> Tables:
    arrays = _read_npz(path)

    def decode(part: str) -> Rows:
        stream, offset, labels = (arrays[f"{part}_{key}"] for key in ("jpeg", "offset", "label"))
        if len(offset) != len(labels) + 1 or offset[-1] != len(stream):
            raise ValueError(f"{len(labels)} labels, {len(offset)} offsets, {len(stream)} bytes")
        images, raw = np.empty((len(labels), 32, 32, 3), np.uint8), stream.tobytes()
        for i in range(len(labels)):
            with Image.open(io.BytesIO(raw[offset[i] : offset[i + 1]])) as image:
                images[i] = np.asarray(image.convert("RGB"))
        return images, labels

    try:
        return decode("train"), decode("test")
    except Exception as e:
        raise UserError(f"{path}: damaged ({brief(e)})") from e


def _att_faces(path: Path, facts: PublicFacts) -> Tables:
    arrays = _read_npz(path)
    try:
        images, labels = arrays["images"], arrays["labels"]
        shots = np.stack([np.flatnonzero(labels == person) for person in range(40)], axis=1)
        if images.shape != (400, 112, 92) or images.dtype != np.uint8 or len(shots) != 10:
            raise ValueError(f"images {images.dtype} {images.shape}, labels {labels.shape}")
        size = (facts.shape[2], facts.shape[1])
        images = np.stack([np.asarray(Image.fromarray(x).resize(size, _BILINEAR)) for x in images])
    except Exception as e:
        raise UserError(f"{path}: ten faces of 40 people, 112x92, are expected; {brief(e)}") from e
    train, test = shots[:-3].ravel(), shots[-3:].ravel()
    return (images[train], labels[train]), (images[test], labels[test])


def _image_folder(root: Path, facts: PublicFacts) -> Tables:
    base = root / "train" if (root / "train").is_dir() else root
    if not base.is_dir():
        raise UserError(f"data.root: no folder {base.absolute()}; accepted: one folder a class")
    names = sorted(p.name for p in base.iterdir() if p.is_dir() and p.name[0] != ".")
    if len(names) != facts.classes:
        raise UserError(f"data.classes: {facts.classes}, but {base} has {len(names)} class folders")
    train, held = _shuffled(_read_folder(base, names, facts)), root / "test"
    has_test = base != root and held.is_dir()
    return train, _read_folder(held, names, facts) if has_test else None


def _read_folder(base: Path, names: list[str], facts: PublicFacts) -> Rows:
    images, labels = [], []
    for folder in sorted(p for p in base.iterdir() if p.is_dir() and p.name[0] != "."):
        if folder.name not in names:
            raise UserError(f"{folder}: no such class in training; accepted: {', '.join(names)}")
        files = sorted(p for p in folder.rglob("*") if p.suffix.lower() in _SUFFIXES)
        if not files:
            raise UserError(f"{folder}: no images; accepted: {', '.join(sorted(_SUFFIXES))}")
        images += [_read_image(path, facts) for path in files]
        labels += [names.index(folder.name)] * len(files)
    if not images:
        raise UserError(f"{base}: no class folders; accepted: {', '.join(names)}")
    return np.stack(images), np.asarray(labels)


def _read_image(path: Path, facts: PublicFacts) -> Array:
    channels, height, width = facts.shape
    try:
        with Image.open(path) as image:
            if image.mode[0] in "IF":
                raise ValueError(f"pixel mode {image.mode}; accepted: 8 bits a channel")
            upright = ImageOps.exif_transpose(image).convert("L" if channels == 1 else "RGB")
            pixels = np.asarray(upright.resize((width, height), _BILINEAR))
    except Exception as e:
        raise UserError(f"{path}: not a readable image ({brief(e)})") from e
    return pixels[None] if channels == 1 else np.moveaxis(pixels, 2, 0)


def _read_npz(path: Path) -> dict[str, Array]:
    if not path.is_file():
        hint = "looked for in data.root, else $DPSD_DATA, else data/"
        raise UserError(f"data.root: no file {path.absolute()}; {hint}")
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {key: archive[key] for key in archive.files}
    except Exception as e:
        raise UserError(f"{path}: not a readable npz archive ({brief(e)})") from e


def _imported(name: str) -> Tables:
    function, keys = import_object(name), ("images", "labels", "test_images", "test_labels")
    try:
        found = function()
        if isinstance(found, tuple | list) and len(found) in (2, 4):
            found = dict(zip(keys, found, strict=False))
        if not isinstance(found, Mapping):
            accepted = f"a dict or tuple of {', '.join(keys)} (the last two if there are any)"
            raise TypeError(f"returned {type(found).__name__}; accepted: {accepted}")
        arrays = {key: np.asarray(value) for key, value in found.items() if value is not None}
    except Exception as e:
        raise UserError(f"data.name: {name} gave no data ({brief(e)})") from e
    return _tables(arrays, name)


def _tables(arrays: Mapping[str, Array], source: str) -> Tables:
    short = {"images": "x", "labels": "y", "test_images": "test_x", "test_labels": "test_y"}
    found = {name: arrays.get(name, arrays.get(x)) for name, x in short.items()}
    has_test = found["test_images"] is not None or found["test_labels"] is not None
    for name in list(short)[: 4 if has_test else 2]:
        if found[name] is None:
            names = ", ".join(arrays) or "nothing"
            raise UserError(f"{source}: no array {name} (or {short[name]}); found: {names}")
    x, y, test_x, test_y = (np.asarray(array) for array in found.values())
    return (x, y), (test_x, test_y) if has_test else None


def load_public_images(folder: Path, facts: PublicFacts) -> torch.Tensor:
    """All images under a folder that the user declares public, uint8 [N, C, H, W]."""
    files = sorted(p for p in folder.rglob("*") if p.suffix.lower() in _SUFFIXES)
    if not files:
        accepted = ", ".join(sorted(_SUFFIXES))
        raise UserError(f"generator.source: {folder} holds no images; accepted: {accepted}")
    return torch.from_numpy(np.stack([_read_image(path, facts) for path in files]))
