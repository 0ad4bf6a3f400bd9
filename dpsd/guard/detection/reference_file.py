"""A reference in a file: numbers alone."""

import json
from dataclasses import astuple
from pathlib import Path
from typing import Any

import numpy as np

from dpsd.errors import UserError
from dpsd.files import whole_file
from dpsd.guard.detection.detectors import DETECTORS
from dpsd.guard.detection.evidence import Tail
from dpsd.guard.detection.mmd import Kernel
from dpsd.guard.detection.outliers import Outliers
from dpsd.guard.detection.reference import Benign, Reference
from dpsd.guard.detection.sketch import WINDOW
from dpsd.guard.detection.variation import Honest, Variation
from dpsd.guard.proof_of_work.price import Information
from dpsd.imports import brief

_FACTS = ("discount", "level", "alpha", "accounts")
_SCALARS = ("benign.spread", "benign.entropy", "benign.margin")


def save_reference(reference: Reference, path: Path) -> None:
    """Write it: numbers alone, readable by the owner (its seed must not be known)."""
    b = reference.benign
    arrays: dict[str, Any] = {
        f"benign.{k}": v for k, v in vars(b).items() if k not in ("kernel", "outliers")
    }
    arrays |= {f"kernel.{k}": v for k, v in vars(b.kernel).items()}
    if b.outliers is not None:
        arrays |= {f"outliers.{k}": v for k, v in vars(b.outliers).items()}
    if reference.honest is not None:
        h = reference.honest
        arrays |= {
            "honest.axes": h.variation.axes,
            "honest.between": h.variation.between,
            "honest.usual": np.array(h.usual),
            "honest.level": np.array(h.level),
        }
    for name, tail in reference.tails.items():
        arrays |= {f"tail.{name}": np.stack([tail.thresholds, tail.rates])}
    arrays["facts"] = np.array(json.dumps(
        {name: getattr(reference, name) for name in _FACTS}
        | {"window": WINDOW, "information": astuple(reference.information),
           "highest": reference.highest.tolist()}
    ))  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with whole_file(path, ".npz") as partial:
        partial.touch(0o600)
        with partial.open("wb") as file:
            np.savez_compressed(file, **arrays)


def read_reference(path: Path) -> Reference:
    """A calibration that `save_reference` wrote.

    Raises:
        UserError: none there, or not one of this version.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        facts = json.loads(str(arrays.pop("facts")))
        if facts.pop("window") != WINDOW:
            raise ValueError("made for windows of another length")
        information = Information(*facts.pop("information"))
        facts["highest"] = np.array(facts["highest"], np.float64)
        parts: dict[str, dict[str, Any]] = {
            "benign": {}, "kernel": {}, "tail": {}, "honest": {}, "outliers": {}}  # fmt: skip
        for name, array in arrays.items():
            part, _, field = name.partition(".")
            parts[part][field] = float(array) if f"{part}.{field}" in _SCALARS else array
        tails = {name: Tail(*parts["tail"][name]) for name in DETECTORS}
        outliers = Outliers(**parts["outliers"]) if parts["outliers"] else None
        parts["benign"]["given_hashes"] = bool(parts["benign"]["given_hashes"])
        benign = Benign(Kernel(**parts["kernel"]), **parts["benign"], outliers=outliers)
        honest = _honest_from(**parts["honest"]) if parts["honest"] else None
        return Reference(benign, tails, information=information, honest=honest, **facts)
    except Exception as e:
        raise UserError(f"{path}: no readable reference; dpsd guard calibrate makes one "
                        f"({brief(e)})") from e  # fmt: skip


def _honest_from(axes: Any, between: Any, usual: Any, level: Any) -> Honest:
    return Honest(Variation(axes, between), float(usual), float(level))
