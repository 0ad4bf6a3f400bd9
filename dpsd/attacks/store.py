"""What an attack keeps in `private/attacks/<name>/` (mode 0700): scores, report, finished parts.

`scores.npz` holds arrays and, as JSON in `facts`, everything else that the report is computed from.
So the analysis of saved scores can be repeated without any model.
"""

import json
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dpsd.errors import UserError
from dpsd.files import whole_file, write_json
from dpsd.runs.folder import Run

SCORES, REPORT = "scores.npz", "report.json"

Arrays = dict[str, NDArray[Any]]

_DAMAGED = (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile)


def attack_folder(run: Run, name: str) -> Path:
    """The private folder of one attack on a run, created where it is missing."""
    folder = run.private / "attacks" / name
    folder.mkdir(parents=True, exist_ok=True)
    for path in (folder.parent, folder):
        os.chmod(path, 0o700)
    return folder


def save_scores(folder: Path, arrays: Arrays, facts: dict[str, Any]) -> None:
    """Write `scores.npz`, whole or not at all."""
    _write(folder / SCORES, arrays | {"facts": np.array(json.dumps(facts, allow_nan=False))})


def load_scores(folder: Path) -> tuple[Arrays, dict[str, Any]]:
    """The arrays and facts of `scores.npz`.

    Raises:
        UserError: the file is missing or damaged; says that the attack comes before its analysis.
    """
    path = folder / SCORES
    try:
        arrays = _read(path)
        return arrays, json.loads(str(arrays.pop("facts")))
    except FileNotFoundError as e:
        raise UserError(f"{path}: missing; run the attack before its analysis") from e
    except _DAMAGED as e:
        raise UserError(f"{path}: damaged ({e}); run the attack again") from e


def save_report(folder: Path, report: dict[str, Any]) -> None:
    """Write `report.json`, whole or not at all."""
    write_json(folder / REPORT, report)


def kept(path: Path, key: str, make: Callable[[], Arrays]) -> Arrays:
    """The arrays of a file that was written under the same key; else they are made and written.

    So a stopped attack resumes after its last finished part. A damaged file is made again.
    """
    try:
        arrays = _read(path)
        if str(arrays.pop("key")) == key:
            return arrays
    except _DAMAGED:
        pass
    arrays = make()
    _write(path, arrays | {"key": np.array(key)})
    return arrays


def _read(path: Path) -> Arrays:
    with np.load(path, allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


def _write(path: Path, arrays: Arrays) -> None:
    with whole_file(path) as partial, partial.open("wb") as f:
        np.savez_compressed(f, **arrays)  # type: ignore[arg-type]
