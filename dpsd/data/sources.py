"""Readers of named data sets, and of arrays by name: files in, arrays out.

They know formats alone. `dpsd.data.load` checks and splits what they return.
"""

import contextlib
import io
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from dpsd.data.archives import read_npz
from dpsd.data.folders import shuffled_order
from dpsd.data.rows import DiskRows
from dpsd.errors import UserError
from dpsd.imports import brief, import_object

Array = NDArray[Any]
Shape = tuple[int, int, int]
Rows = tuple[Array | DiskRows, Array]
"""Images, in memory or on disk, and labels, as the source holds them."""
Tables = tuple[Rows, Rows | None]
"""Training rows, and test rows if there are any."""

_BILINEAR = Image.Resampling.BILINEAR


def read_digits() -> Tables:
    """scikit-learn's digits, enlarged to 28 x 28 and shuffled; a fifth is for tests."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    small = torch.tensor(bunch.images, dtype=torch.float32)[:, None] / 16 * 255
    large = torch.nn.functional.interpolate(small, (28, 28), mode="bilinear", align_corners=False)
    order = shuffled_order(len(bunch.target))
    images, labels = large.round().to(torch.uint8).numpy()[order], bunch.target[order]
    n_test = len(labels) // 5
    return (images[n_test:], labels[n_test:]), (images[:n_test], labels[:n_test])


def read_torchvision(name: str, root: Path) -> Tables:
    """mnist, fashion_mnist or cifar10 under a folder, downloaded where it is missing."""
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


def read_cifar10_jpeg(path: Path) -> Tables:
    """CIFAR-10 as JPEG streams in an npz."""
    arrays = read_npz(path)

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


def read_att_faces(path: Path, shape: Shape) -> Tables:
    """AT&T faces, resized, one of each person in turn; the last three of ten are for tests."""
    arrays = read_npz(path)
    try:
        images, labels = arrays["images"], arrays["labels"]
        shots = np.stack([np.flatnonzero(labels == person) for person in range(40)], axis=1)
        if images.shape != (400, 112, 92) or images.dtype != np.uint8 or len(shots) != 10:
            raise ValueError(f"images {images.dtype} {images.shape}, labels {labels.shape}")
        size = (shape[2], shape[1])
        images = np.stack([np.asarray(Image.fromarray(x).resize(size, _BILINEAR)) for x in images])
    except Exception as e:
        raise UserError(f"{path}: ten faces of 40 people, 112x92, are expected; {brief(e)}") from e
    train, test = shots[:-3].ravel(), shots[-3:].ravel()
    return (images[train], labels[train]), (images[test], labels[test])


def read_imported(name: str) -> Tables:
    """Training and test rows from the callable at an import path."""
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
    return as_tables(arrays, name)


def as_tables(arrays: Mapping[str, Array], source: str) -> Tables:
    """Training rows and, if there are any, test rows from arrays by name."""
    found = _named(arrays)
    has_test = "test_images" in found or "test_labels" in found
    for name in list(_NAMES)[: 4 if has_test else 2]:
        if name not in found:
            more = " (test rows alone: dpsd evaluate RUN --rows FILE)" if has_test else ""
            raise UserError(_lacking(name, arrays, source) + more)
    train = found["images"], found["labels"]
    return train, (found["test_images"], found["test_labels"]) if has_test else None


def as_rows(arrays: Mapping[str, Array], source: str) -> Rows:
    """The test rows among arrays by name, or the rows where there are no others.

    Raises:
        UserError: no images, or no labels.
    """
    found = _named(arrays)
    prefix = "test_" if "test_images" in found or "test_labels" in found else ""
    for name in (f"{prefix}images", f"{prefix}labels"):
        if name not in found:
            raise UserError(_lacking(name, arrays, source))
    return found[f"{prefix}images"], found[f"{prefix}labels"]


_NAMES = {
    "images": ("x", "x_train"), "labels": ("y", "y_train"),
    "test_images": ("test_x", "x_test"), "test_labels": ("test_y", "y_test"),
}  # fmt: skip
"""Names of arrays, and others that are understood."""


def _named(arrays: Mapping[str, Array]) -> dict[str, Array]:
    """The arrays that are there, by their first name."""
    found = {name: next((arrays[n] for n in (name, *others) if n in arrays), None)
             for name, others in _NAMES.items()}  # fmt: skip
    return {name: np.asarray(array) for name, array in found.items() if array is not None}


def _lacking(name: str, arrays: Mapping[str, Array], source: str) -> str:
    accepted = "; ".join(" or ".join((n, *others)) for n, others in _NAMES.items())
    found = ", ".join(arrays) or "nothing"
    return f"{source}: no array {name}; found: {found}; accepted: {accepted}"
