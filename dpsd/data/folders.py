"""Folders of images: which files there are, and the pixels of one."""

import os
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps

from dpsd.data.manifest import read_manifest
from dpsd.data.rows import DiskRows
from dpsd.errors import UserError
from dpsd.imports import brief

Shape = tuple[int, int, int]
Labels = NDArray[Any]

_BILINEAR = Image.Resampling.BILINEAR
SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"}
"""Endings of image files, in lower case."""


@dataclass(frozen=True, eq=False)
class Names:
    """Many names in little memory: their text and eight bytes each."""

    text: bytes
    ends: "array[int]"

    @classmethod
    def packed(cls, names: Iterable[str]) -> "Names":
        """The names, in their order."""
        text, ends = bytearray(), array("q")
        for name in names:
            text += os.fsencode(name)
            ends.append(len(text))
        return cls(bytes(text), ends)

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, number: int) -> str:
        start = self.ends[number - 1] if number else 0
        return os.fsdecode(self.text[start : self.ends[number]])

    def __iter__(self) -> Iterator[str]:
        return (self[number] for number in range(len(self)))


@dataclass(frozen=True, eq=False)
class Files:
    """Image files below a folder, each decoded and resized when it is read."""

    root: Path
    names: Names
    """Relative to `root`."""
    shape: Shape

    def read(self, number: int) -> NDArray[np.uint8]:
        """One image, uint8 [C, H, W]."""
        path = self.root / self.names[number]
        return decode(path, path, self.shape)

    def mark(self, number: int) -> bytes:
        """Name, size and time of a file."""
        name = self.names[number]
        path = os.path.join(self.root, name)  # a million Paths would take a minute
        try:
            facts = os.stat(path)
        except OSError as e:
            raise UserError(f"{path}: cannot be read ({brief(e)})") from e
        return os.fsencode(f"{name}\0{facts.st_size}\0{facts.st_mtime_ns}\n")


def decode(file: Path | BinaryIO, name: object, shape: Shape) -> NDArray[np.uint8]:
    """An image upright, in grey or RGB, and resized to `shape`: uint8 [C, H, W].

    Raises:
        UserError: with `name`, where it is no image of 8 bits a channel.
    """
    channels, height, width = shape
    try:
        with Image.open(file) as image:
            if image.mode[0] in "IF":
                raise ValueError(f"pixel mode {image.mode}; accepted: 8 bits a channel")
            image.load()
            ImageOps.exif_transpose(image, in_place=True)
            # Pillow copies an image where nothing is to be done, and nobody decodes meanwhile.
            mode = "L" if channels == 1 else "RGB"
            upright = image if image.mode == mode else image.convert(mode)
            if upright.size != (width, height):
                upright = upright.resize((width, height), _BILINEAR)
            pixels = np.asarray(upright)
    except Exception as e:
        raise UserError(f"{name}: not a readable image ({brief(e)})") from e
    return pixels[None] if channels == 1 else np.moveaxis(pixels, 2, 0)


def read_image_folder(
    root: Path, shape: Shape, classes: int, rows: Path | None
) -> tuple[tuple[DiskRows, Labels], tuple[DiskRows, Labels] | None]:
    """Images of one folder a class, directly in `root` or in its `train` (and `test`).

    Training rows come in the order of the manifest `rows`. Without a manifest they are shuffled.

    Returns:
        Training rows with their labels, and test rows if there are any. No image is read.

    Raises:
        UserError: no such folder, other classes than declared, or a class without images.
    """
    base = training_folder(root)
    names = _subfolders(base)
    if len(names) != classes:
        raise UserError(f"data.classes: {classes}, but {base} has {len(names)} class folders")
    files, labels = _listed(base, names, empty=rows is not None)
    order = shuffled_order(len(labels)) if rows is None else read_manifest(rows, base, files)
    held, prefix = root / "test", "" if base == root else "train/"
    has_test = base != root and held.is_dir()
    test_files, test_labels = _listed(held, names, empty=False) if has_test else (files[:0], [])
    every = Names.packed(
        part + name for part, some in ((prefix, files), ("test/", test_files)) for name in some
    )
    source, numbers = Files(root, every, shape), torch.arange(len(every))
    train = DiskRows(source, torch.from_numpy(order)), np.asarray(labels)[order]
    test = DiskRows(source, numbers[len(labels) :]), np.asarray(test_labels)
    return train, test if has_test else None


def training_folder(root: Path) -> Path:
    """The folder that holds the training rows: `root`, or its `train`.

    Raises:
        UserError: there is none.
    """
    base = root / "train" if (root / "train").is_dir() else root
    if not base.is_dir():
        raise UserError(f"data.root: no folder {base.absolute()}; accepted: one folder a class")
    return base


def training_files(root: Path) -> tuple[Path, list[str]]:
    """The folder of the training classes, and all training images relative to it, sorted."""
    base = training_folder(root)
    return base, _listed(base, _subfolders(base), empty=True)[0]


def image_rows(folder: Path, shape: Shape) -> DiskRows:
    """All images under a folder, resized to `shape` when they are read, uint8 [N, C, H, W]."""
    names = Names.packed(image_names(folder, "generator.source"))
    return DiskRows(Files(folder, names, shape), torch.arange(len(names)))


def image_names(folder: Path, field: str) -> list[str]:
    """All image files below a folder, relative to it and sorted.

    Args:
        folder: also of folders.
        field: of the configuration, for the message.

    Raises:
        UserError: there are none.
    """
    names = list(_below(folder, "")) if folder.is_dir() else []
    if not names:
        accepted = ", ".join(sorted(SUFFIXES))
        raise UserError(f"{field}: {folder} holds no images; accepted: {accepted}")
    return names


def shuffled_order(rows: int) -> NDArray[np.int64]:
    """A permutation under a fixed key, int64 [N]."""
    # RandomState, because numpy promises that its streams never change.
    return np.random.RandomState(20260119).permutation(rows)


def _subfolders(base: Path) -> list[str]:
    return sorted(p.name for p in base.iterdir() if p.is_dir() and p.name[0] != ".")


def _listed(base: Path, names: list[str], *, empty: bool) -> tuple[list[str], list[int]]:
    """Files of all classes relative to `base`, in the order of class and path, and their labels."""
    files, labels = list[str](), list[int]()
    folders = _subfolders(base)
    for name in folders:
        if name not in names:
            accepted = ", ".join(names)
            raise UserError(f"{base / name}: no such class in training; accepted: {accepted}")
        files += _below(base / name, f"{name}/")
        if len(files) == len(labels) and not empty:
            accepted = ", ".join(sorted(SUFFIXES))
            raise UserError(f"{base / name}: no images; accepted: {accepted}")
        labels += [names.index(name)] * (len(files) - len(labels))
    if not folders:
        raise UserError(f"{base}: no class folders; accepted: {', '.join(names)}")
    return files, labels


def _below(folder: Path | str, prefix: str) -> Iterator[str]:
    """Image files below a folder, sorted as paths are; linked folders are not entered."""
    with os.scandir(folder) as found:
        entries = sorted(found, key=lambda entry: entry.name)
    for entry in entries:
        if entry.is_dir(follow_symlinks=False):
            yield from _below(entry.path, f"{prefix}{entry.name}/")
        elif os.path.splitext(entry.name)[1].lower() in SUFFIXES:
            yield prefix + entry.name
