"""Where an attack's files lie: `private/attacks/<name>/`, mode 0700, raw scores apart from figures.

`scores.npz` holds arrays and, as JSON in `facts`, all that turning them into figures needs; so
either step can be run alone.
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
from dpsd.runs.folder import Run

SCORES, REPORT = "scores.npz", "report.json"

Arrays = dict[str, NDArray[Any]]


def attack_folder(run: Run, name: str) -> Path:
    """The private folder of one attack on a run, made if it is missing."""
    folder = run.private / "attacks" / name
    folder.mkdir(parents=True, exist_ok=True)
    for path in (folder.parent, folder):
        os.chmod(path, 0o700)
    return folder


def save_scores(folder: Path, arrays: Arrays, facts: dict[str, Any]) -> None:
    """Write `scores.npz`, whole or not at all."""
    partial = folder / f".{SCORES}"
    with partial.open("wb") as f:
        text: Any = np.array(json.dumps(facts, allow_nan=False))
        everything: dict[str, Any] = arrays | {"facts": text}
        np.savez_compressed(f, **everything)
    os.replace(partial, folder / SCORES)


def load_scores(folder: Path) -> tuple[Arrays, dict[str, Any]]:
    """The arrays and facts of `scores.npz`.

    Raises:
        UserError: missing or damaged; says that the attack comes before its analysis.
    """
    path = folder / SCORES
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        return arrays, json.loads(str(arrays.pop("facts")))
    except FileNotFoundError as e:
        raise UserError(f"{path}: missing; run the attack before its analysis") from e
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile) as e:
        raise UserError(f"{path}: damaged ({e}); run the attack again") from e


def kept(path: Path, key: str, make: Callable[[], Arrays]) -> Arrays:
    """Arrays that were made before under the same key, else made now and kept.

    So an attack that was stopped goes on where it stood. A damaged file is made again.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            if str(file["key"]) == key:
                return {name: file[name] for name in file.files if name != "key"}
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile):
        pass
    arrays = make()
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    everything: dict[str, Any] = arrays | {"key": np.array(key)}
    with partial.open("wb") as f:
        np.savez(f, **everything)
    os.replace(partial, path)
    return arrays
