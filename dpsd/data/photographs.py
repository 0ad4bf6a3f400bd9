"""Public photographs: files in, pixels out, each known by its hash."""

import hashlib
import os
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from dpsd.config.public import SHIPPED_PHOTOGRAPHS, public_photographs
from dpsd.config.sections import GeneratorConfig, Photograph
from dpsd.data.folders import image_names
from dpsd.errors import UserError
from dpsd.imports import brief

LEAST_SIDE = 24
"""Pixels of a photograph that the smallest crop shows along its shorter side."""
_MOST_FLOATS = 2**28
"""Of all photographs together with their smaller copies: 1 GiB."""
_HASHED_BYTES = 2**30
"""Files of a public folder up to which their contents are hashed, above it only their sizes."""
_COPIES = 3 * 4 / 3  # channels, and the smaller copies of smaller copies


def pinned(generator: GeneratorConfig) -> GeneratorConfig:
    """The same section with each photograph by its absolute path and hash, folders listed.

    A public folder of query images is pinned by its hash.

    Raises:
        UserError: a file is missing, or is another one than its hash says.
    """
    generator = with_folder_hash(generator)
    if not public_photographs(generator) or generator.photographs is None:
        return generator
    found = [
        Photograph(file=str(path.absolute()), sha256=hash_of(path, entry.sha256))
        for entry in generator.photographs
        for path in _files(Path(entry.file))
    ]
    return generator.model_copy(update={"photographs": tuple(found)})


def with_folder_hash(generator: GeneratorConfig) -> GeneratorConfig:
    """The same section with the hash of the public folder that images are drawn from, if any.

    It is SHA-256 of the sorted file names with the files' SHA-256, or, where the files take more
    than 1 GiB, with their sizes. So a file of a large folder may change unnoticed.

    Raises:
        UserError: no images there, a file cannot be read, or the folder has another hash.
    """
    source, expected = generator.source or "", generator.source_sha256
    if generator.kind != "images" or ":" in source:
        return generator
    folder, digest = Path(source), hashlib.sha256()
    names = image_names(folder, "generator.source")
    try:
        sizes = [os.stat(os.path.join(folder, name)).st_size for name in names]
        of = "contents" if sum(sizes) <= _HASHED_BYTES else "sizes"
        for name, size in zip(names, sizes, strict=True):
            known = str(size) if of == "sizes" else _file_hash(folder / name)
            digest.update(os.fsencode(f"{len(os.fsencode(name))} {name} {known}\n"))
    except OSError as e:
        raise UserError(f"generator.source: {folder} cannot be read ({brief(e)})") from e
    found = f"{of}:{digest.hexdigest()}"
    if expected not in (None, found):
        raise UserError(
            f"generator.source: {folder} has changed: SHA-256 {found}; accepted: the folder with "
            f"{expected}"
        )
    return generator.model_copy(update={"source_sha256": found})


def _file_hash(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def hash_of(path: Path, expected: str | None) -> str:
    """SHA-256 of a photograph's file.

    Raises:
        UserError: it cannot be read, or has another hash than expected.
    """
    try:
        found = _file_hash(path)
    except OSError as e:
        raise UserError(
            f"generator.photographs: {path} cannot be read ({brief(e)}); accepted: an image file "
            "or a folder of them (of a release: files of these names in the working directory)"
        ) from e
    if expected not in (None, found):
        raise UserError(
            f"generator.photographs: {path} has SHA-256 {found}; accepted: the file with {expected}"
        )
    return found


def read_photographs(generator: GeneratorConfig) -> list[Tensor]:
    """The pixels of a run's photographs, uint8 [3, H, W] each, in the order of the configuration.

    Raises:
        UserError: a file is missing, unreadable, or another one than its hash says.
    """
    if generator.photographs is None:
        import sklearn.datasets

        folder = Path(sklearn.datasets.__file__).parent / "images"
        entries = [(folder / p.file, p.sha256) for p in SHIPPED_PHOTOGRAPHS]
    else:
        entries = [(f, p.sha256) for p in generator.photographs for f in _files(Path(p.file))]
    for path, expected in entries:
        hash_of(path, expected)
    return read_large([path for path, _ in entries], "generator.photographs")


def read_large(files: list[Path], field: str) -> list[Tensor]:
    """Images in their own sizes, shrunk only where all together would need more than 1 GiB.

    Args:
        files: of images.
        field: of the configuration, for messages.

    Returns:
        uint8 [3, H, W] each; grey images are repeated to three channels.

    Raises:
        UserError: a file is no image, or one with a side shorter than `LEAST_SIDE`; or too many
            files to cut crops out of.
    """
    most = (_MOST_FLOATS / _COPIES / len(files)) ** 0.5
    if most < 2 * LEAST_SIDE:
        accepted = int(_MOST_FLOATS / _COPIES / (2 * LEAST_SIDE) ** 2)
        raise UserError(
            f"{field}: {len(files):,} images; accepted where crops are cut out of them: up to "
            f"{accepted:,}, which take 1 GiB"
        )
    return [_read(path, most, field) for path in files]


def _read(path: Path, most: float, field: str) -> Tensor:
    """One photograph; of more than `most` squared pixels, shrunk to these."""
    try:
        with Image.open(path) as image:
            if image.mode[0] in "IF":
                raise ValueError(f"pixel mode {image.mode}; accepted: 8 bits a channel")
            upright = ImageOps.exif_transpose(image).convert("RGB")
    except Exception as e:
        raise UserError(f"{field}: {path} is not a readable image ({brief(e)})") from e
    shrink = min(1.0, most / (upright.width * upright.height) ** 0.5)
    if shrink < 1:
        size = max(1, int(upright.width * shrink)), max(1, int(upright.height * shrink))
        upright = upright.resize(size, Image.Resampling.BOX)
    if min(upright.size) < LEAST_SIDE:
        raise UserError(
            f"{field}: {path} has {upright.width}x{upright.height} pixels; accepted: from "
            f"{LEAST_SIDE}x{LEAST_SIDE}"
        )
    return torch.from_numpy(np.asarray(upright).copy()).permute(2, 0, 1)


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    return [path / name for name in image_names(path, "generator.photographs")]
