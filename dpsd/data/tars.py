"""WebDataset shards: tar files whose samples are read at random by their place in the file.

The library `webdataset` streams; it cannot jump to a sample. It says here which members of a tar
are one sample. The index of places, which it does not have, comes from Python's `tarfile`.
"""

import io
import os
import re
import tarfile
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from dpsd.data.folders import SUFFIXES, Labels, Names, Shape, decode, shuffled_order
from dpsd.data.manifest import read_manifest
from dpsd.data.rows import DiskRows
from dpsd.errors import UserError
from dpsd.imports import brief

_ACCEPTED = "*.tar in the folder or in its train/ and test/"


@dataclass(frozen=True, eq=False)
class Samples:
    """Images in tar files, each decoded and resized when it is read."""

    root: Path
    tars: list[str]
    """Relative to `root`."""
    keys: Names
    """Of the samples: tar file and key within it."""
    places: NDArray[np.int64]
    """[N, 3]: number of the tar file, first byte and size of the image in it."""
    shape: Shape

    def read(self, number: int) -> NDArray[np.uint8]:
        """One image, uint8 [C, H, W]."""
        tar, start, size = self.places[number].tolist()
        name = self.root / self.keys[number]
        try:
            with (self.root / self.tars[tar]).open("rb", buffering=0) as file:
                file.seek(start)
                content = file.read(size)
        except OSError as e:
            raise UserError(f"{name}: cannot be read ({brief(e)})") from e
        return decode(io.BytesIO(content), name, self.shape)

    def mark(self, number: int) -> bytes:
        """Key and place of a sample; size and time of its tar file."""
        place = self.places[number].tolist()
        path = self.root / self.tars[place[0]]
        try:
            facts = path.stat()
        except OSError as e:
            raise UserError(f"{path}: cannot be read ({brief(e)})") from e
        return os.fsencode(
            f"{self.keys[number]}\0{place[1:]}\0{facts.st_size}\0{facts.st_mtime_ns}\n"
        )


def read_webdataset(
    root: Path, shape: Shape, rows: Path | None
) -> tuple[tuple[DiskRows, Labels], tuple[DiskRows, Labels] | None]:
    """Samples of an image and a class number (`cls`), in tar files that are not compressed.

    Training and test tars lie in `train` and `test`, or have these words in their names; other tars
    are for training. Training rows come in the order of the manifest `rows`. Without a manifest
    they are shuffled.

    Returns:
        Training rows with their labels, and test rows if there are any. No image is read.

    Raises:
        UserError: no tar files, one that is damaged, a sample without image or class, or the
            library is missing.
    """
    train, test = _tars(root)
    index = _Index(root, shape)
    for name in train:
        index.add(name)
    count = len(index.labels)
    for name in test:
        index.add(name)
    source, labels = index.samples(), np.asarray(index.labels)
    if rows is None:
        order = shuffled_order(count)
    else:
        order = read_manifest(rows, root, [*source.keys][:count])
    held = torch.arange(count, len(labels))
    return (DiskRows(source, torch.from_numpy(order)), labels[order]), (
        (DiskRows(source, held), labels[count:]) if test else None
    )


def training_samples(root: Path, shape: Shape) -> tuple[Path, list[str]]:
    """The root, and the training samples: tar file and key, in the order of the tar files."""
    index = _Index(root, shape)
    for name in _tars(root)[0]:
        index.add(name)
    return root, [*index.samples().keys]


def _tars(root: Path) -> tuple[list[str], list[str]]:
    """Training and test tars relative to `root`, sorted."""
    if (root / "train").is_dir():
        parts = [sorted(f"{part}/{p.name}" for p in (root / part).glob("*.tar"))
                 for part in ("train", "test")]  # fmt: skip
        train, test = parts
    else:
        names = sorted(p.name for p in root.glob("*.tar"))
        words = {name: set(re.findall("[a-z]+", name.lower())) for name in names}
        test = [name for name in names if "test" in words[name]]
        train = [name for name in names if "train" in words[name]]
        unclear = [name for name in names if name not in test and name not in train]
        if unclear and (test or train):
            raise UserError(
                f"data.root: {root / unclear[0]} has neither `train` nor `test` in its name, "
                "others have; move it away or rename it"
            )
        train = train or unclear
    if not train:
        raise UserError(f"data.root: {root.absolute()} holds no tar files; accepted: {_ACCEPTED}")
    return train, test


class _Index:
    """The samples of some tar files: where their images lie, and their classes."""

    def __init__(self, root: Path, shape: Shape) -> None:
        try:
            from webdataset.tariterators import group_by_keys
        except ImportError as e:
            raise UserError(
                f"data.name: webdataset needs the library webdataset ({brief(e)}); pip install "
                "'dpsd[webdataset]'"
            ) from e
        self._group: Any = group_by_keys
        self._root, self._shape = root, shape
        self._tars, self._names = list[str](), list[str]()
        self._places, self.labels = array("q"), array("q")

    def add(self, tar: str) -> None:
        """Read the headers and classes of one tar file."""
        path = self._root / tar
        try:
            for sample in self._group(_members(path)):
                self._add(sample, f"{tar}/{sample['__key__']}")
        except (OSError, tarfile.TarError, ValueError) as e:
            accepted = "a whole tar file, not compressed"
            raise UserError(f"{path}: unreadable ({brief(e)}); accepted: {accepted}") from e
        self._tars.append(tar)

    def _add(self, sample: dict[str, Any], name: str) -> None:
        images = [part for part in sample if f".{part}" in SUFFIXES]
        try:
            label = int(sample["cls"])
        except (KeyError, ValueError) as e:
            why = f"{brief(e)}; accepted: a member .cls that holds the class number"
            raise UserError(f"{self._root / name}: no class ({why})") from e
        if len(images) != 1:
            accepted = ", ".join(sorted(SUFFIXES))
            raise UserError(
                f"{self._root / name}: {len(images)} images in a sample; accepted: 1, {accepted}"
            )
        self._places.extend((len(self._tars), *sample[images[0]]))
        self._names.append(name)
        self.labels.append(label)

    def samples(self) -> Samples:
        """All that was added, in order."""
        places = np.asarray(self._places).reshape(-1, 3)
        return Samples(self._root, self._tars, Names.packed(self._names), places, self._shape)


def _members(path: Path) -> Iterator[dict[str, Any]]:
    """The files of a tar as the library groups them; for all but classes, their place."""
    whole = path.stat().st_size
    with tarfile.open(path, "r:") as tar:
        for member in tar:
            if not member.isreg() or member.name.startswith("__"):
                continue
            if member.offset_data + member.size > whole:
                raise ValueError(f"{member.name} is cut off")
            data: Any = (member.offset_data, member.size)
            if member.name.lower().endswith(".cls"):
                file = tar.extractfile(member)
                data = b"" if file is None else file.read()
            yield {"fname": member.name, "data": data, "__url__": str(path)}
