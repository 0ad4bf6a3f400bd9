"""The data set behind a teacher: its name on record, its ledger, and how many rows it has."""

import hashlib
import os
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

from dpsd.config import NAMED, Config
from dpsd.data.identity import dataset_home, dataset_name, read_dataset
from dpsd.data.load import PrivateData
from dpsd.errors import UserError
from dpsd.files import locked, read_json, write_json
from dpsd.privacy.events import OpenRelease
from dpsd.privacy.inherited import DpTraining
from dpsd.privacy.ledger import Ledger
from dpsd.privacy.record import RunRecord, is_beside
from dpsd.teachers.folder import TeacherFolder


def dataset_of(
    config: Config, data: PrivateData | None, required_by: str | None = None
) -> dict[str, str] | None:
    """The data set's home for `teacher.json`, if the data set has a name; else None.

    Raises:
        UserError: the name is known with another number of rows, or is missing and required.
    """
    if required_by is None and dataset_name(config) is None:
        return None
    found = dataset_home(config, data, required_by or "a teacher")
    if data is not None:
        enter_rows(config, config.teacher.root / found["folder"], found["uuid"], data)
    return found


def with_dataset(config: Config, home: TeacherFolder) -> TeacherFolder:
    """The teacher's folder, with the data set that the configuration names on record.

    Raises:
        UserError: another data set is on record already.
    """
    wanted, known = config.data.dataset, home.dataset()
    if known is not None:
        name = read_dataset(known[0])["name"]
        if wanted is not None and name != wanted:
            raise UserError(
                f"data.dataset: {wanted}, but {home.path} charges the ledger of data set {name}; "
                f"accepted: {name}, or another teacher.root"
            )
        return home
    found = dataset_of(config, None)
    if found is None:
        return home
    folder = config.teacher.root / found["folder"]
    if (home.path / "ledger.jsonl").exists():  # runs from before the data had a name
        before = Ledger(home.path, home.uuid).runs()
        Ledger(folder, found["uuid"]).open_run(
            *(replace(r, event=OpenRelease(), asks_per_image=1, allow_open=True, asked=home.uuid)
              for r in before if not is_beside(r.run))
        )  # fmt: skip
    facts = home.facts | {"dataset": found | {"folder": os.path.relpath(folder, home.path.parent)}}
    with locked(home.path):
        write_json(home.path / "teacher.json", facts)
    return replace(home, facts=facts)


def roster_id(config: Config, dataset: dict[str, str] | None) -> str | None:
    """A random id of the roster of users, one for each file of user ids; None without users.

    Which id belongs to which file stays with the data set.
    """
    users = config.data.user_ids
    if users is None or dataset is None:
        return None
    folder = config.teacher.root / dataset["folder"]
    digest = hashlib.blake2b(users.read_bytes(), digest_size=16).hexdigest()
    with locked(folder):
        path = folder / "rosters.json"
        known = read_json(path) if path.exists() else {}
        if digest not in known:
            write_json(path, known | {digest: str(uuid4())})
        return str(read_json(path)[digest])


def admit_training(config: Config, dataset: dict[str, str], training: DpTraining) -> None:
    """Refuse a training by DP-SGD whose students would exceed a budget of the data set.

    Raises:
        BudgetError: with what is spent and what would fit.
    """
    ledger = Ledger(config.teacher.root / dataset["folder"], dataset["uuid"])
    ledger.admit(
        RunRecord(
            "a new teacher", training.event, 1, seeded_noise=training.seeded_noise, unit="record",
            teacher="a new teacher", allow_open=config.privacy.allow_open,
        )
    )  # fmt: skip


def enter_rows(config: Config, folder: Path, uuid: str, data: PrivateData) -> None:
    """Enter the number of training and holdout rows in the data set's ledger, once.

    Rows of `data.split` are a part of the data set, and public benchmarks are never extended.

    Raises:
        UserError: the ledger knows another number: two data sets have one name, or rows were added.
    """
    if config.data.split is not None or config.data.name in NAMED:
        return
    ledger, rows = Ledger(folder, uuid), len(data.train) + len(data.holdout)
    known = ledger.rows()
    if known is None:
        ledger.set_rows(rows)
    elif known != rows:
        name = read_dataset(folder)["name"]
        raise UserError(
            f"data.dataset: {name} has {known:,} rows by its ledger, these data have {rows:,}; "
            "accepted: another name for other people's data; where rows were added or removed, "
            f"say so with `dpsd ledger {name} --rows {rows}`"
        )
