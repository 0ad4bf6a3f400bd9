"""Where a data set keeps its ledger: what is released about its records composes there.

Ensembles, re-shardings and teachers trained by DP-SGD on the same data all charge the same ledger.
"""

import json
import os
import uuid
from pathlib import Path

from dpsd.config import Config
from dpsd.data import NAMED, PrivateData, dataset_fingerprint, rows_fingerprint
from dpsd.errors import UserError
from dpsd.run import write_json


def dataset_home(config: Config, data: PrivateData | None) -> dict[str, str]:
    """The home of the data set's ledger, made on first use: its `folder` and `uuid`.

    The same people's data must always find the same ledger. `teacher.dataset` names it; a named
    data set is known by its name wherever it lies; any other by a private fingerprint of all its
    rows, which a single changed row changes: who mends or extends data must name them. `data` is
    read for those alone.
    """
    t = config.teacher
    name = t.dataset or (config.data.name if config.data.name in NAMED else None)
    if name is None:
        assert data is not None
        name = dataset_fingerprint(data)
        before = rows_fingerprint(data)  # its name while their order still counted
        if not (t.root / "datasets" / name).exists() and (t.root / "datasets" / before).exists():
            name = before
    home = t.root / "datasets" / name
    home.mkdir(parents=True, exist_ok=True)
    for path in (home, home.parent):
        os.chmod(path, 0o700)
    path = home / "dataset.json"
    if not path.exists():
        fresh = home / f".{uuid.uuid4()}"
        write_json(fresh, {"uuid": str(uuid.uuid4()), "name": name})
        try:
            os.link(fresh, path)  # of two processes, one wins and both read its UUID
        except FileExistsError:
            pass
        finally:
            fresh.unlink()
    return {"folder": os.path.relpath(home, t.root), "uuid": read_dataset(home)["uuid"]}


def read_dataset(folder: Path) -> dict[str, str]:
    """The `name` and `uuid` of the data set whose home this is.

    Raises:
        UserError: it holds no readable `dataset.json`.
    """
    try:
        facts = json.loads((folder / "dataset.json").read_text())
        return {"name": str(facts["name"]), "uuid": str(facts["uuid"])}
    except (OSError, ValueError, LookupError, TypeError) as e:
        raise UserError(f"{folder}: no home of a data set's ledger ({e}); restore it") from e
