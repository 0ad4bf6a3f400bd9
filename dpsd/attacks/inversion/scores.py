"""What an inversion attack leaves behind: `scores.npz`, from which all figures are computed."""

import json
import os
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dpsd.errors import UserError
from dpsd.imports import brief

Array = NDArray[Any]


@dataclass(frozen=True)
class Cell:
    """One attack on one model: R reconstructions over all seeds and classes, in that order."""

    images: Array
    """uint8 [R, C, H, W]."""
    labels: Array
    """int64 [R]: the private class that was asked for."""
    seeds: Array
    """int64 [R]."""
    confidence: Array
    """float32 [R]: what the attacked model believes of that class in the end."""
    network: Array
    """int64 [R]: the class that judge J1 sees."""
    neighbours: Array
    """int64 [R]: the class that judge J2 sees."""
    distances: Array
    """float32 [R, 2P]: root mean squared pixel distance to P training and P held-out images of the
    class."""
    psnr: Array
    """float32 [R]: to the nearest of those training images, in dB."""
    ssim: Array
    """float32 [R]: to the same image."""
    knowledge: Array
    """float32 [S, K]: accuracy by seed and class, on real private images, of a network that was
    trained on these reconstructions alone."""
    seconds: Array
    """float64 []: what the search took."""


@dataclass(frozen=True)
class Scores:
    """All cells, the held-out images' own likeness to training images, and what was done."""

    cells: dict[tuple[str, str], Cell]
    """By attack and target; target `draws` holds random draws from the attack's prior."""
    held_psnr: Array
    held_ssim: Array
    """float32 [held-out images of the pools]: as `Cell.psnr` and `Cell.ssim`."""
    real: Array
    """uint8 [K, C, H, W]: a training image of each private class, for the pictures."""
    facts: dict[str, Any]


def save_cell(path: Path, cell: Cell, key: str) -> None:
    """Write one cell whole or not at all; `key` says under which settings it was made."""
    arrays = {f.name: getattr(cell, f.name) for f in fields(Cell)}
    _save(path, arrays | {"key": np.array(key)})


def load_cell(path: Path, key: str) -> Cell | None:
    """A cell of the same settings, or None."""
    try:
        with np.load(path) as found:
            if str(found["key"]) != key:
                return None
            return Cell(*(found[f.name] for f in fields(Cell)))
    except Exception:  # missing or damaged: done again
        return None


def save_scores(path: Path, scores: Scores) -> None:
    """Write `scores.npz` whole or not at all."""
    arrays: dict[str, Array] = {
        "held_psnr": scores.held_psnr,
        "held_ssim": scores.held_ssim,
        "real": scores.real,
        "facts": np.array(json.dumps(scores.facts)),
    }
    for (attack, target), cell in scores.cells.items():
        for f in fields(Cell):
            arrays[f"{attack}/{target}/{f.name}"] = getattr(cell, f.name)
    _save(path, arrays)


def load_scores(path: Path) -> Scores:
    """The inverse of `save_scores`.

    Raises:
        UserError: no such file, or an unreadable one.
    """
    try:
        with np.load(path) as found:
            names = {tuple(name.split("/")[:2]) for name in found.files if "/" in name}
            cells = {
                (attack, target): Cell(
                    *(found[f"{attack}/{target}/{f.name}"] for f in fields(Cell))
                )
                for attack, target in sorted(names)
            }
            facts = json.loads(str(found["facts"]))
            return Scores(cells, found["held_psnr"], found["held_ssim"], found["real"], facts)
    except Exception as e:
        raise UserError(f"{path}: no readable scores of an inversion attack ({brief(e)})") from e


def _save(path: Path, arrays: dict[str, Array]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    with partial.open("wb") as f:
        np.savez_compressed(f, **arrays)  # type: ignore[arg-type]
    os.replace(partial, path)
