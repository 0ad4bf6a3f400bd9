"""The accuracy on test rows, released on the card with noise and charged to the data set's ledger.

Unit: one test record, replace-one. One changed test row changes the number of hits by at most 1.
Test rows train no teacher, so that this epsilon does not add to one for a record of the training.
"""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dpsd.config import Config
from dpsd.data.identity import dataset_home
from dpsd.data.load import Split, load_data
from dpsd.device import pick_device, rows_at_once
from dpsd.errors import UserError
from dpsd.files import read_json
from dpsd.privacy.accounting import compose_epsilon
from dpsd.privacy.composition import together
from dpsd.privacy.events import PureRelease
from dpsd.privacy.ledger import HASH_BYTES, Ledger
from dpsd.privacy.noise import NoiseSource
from dpsd.privacy.noisy_accuracy import accuracy_interval, noisy_hits
from dpsd.privacy.record import RunRecord, accuracy_run
from dpsd.privacy.signature import signing_key
from dpsd.privacy.units import TEST_RECORD
from dpsd.runs.card import write_card
from dpsd.runs.finish import seal, write_statement
from dpsd.runs.folder import Run
from dpsd.runs.release import Labeller, load_student

CONFIDENCE = 0.95


def release_accuracy(run: Run, epsilon: float, data: Path | None = None) -> dict[str, Any]:
    """Release the student's accuracy on the test rows, with discrete Laplace noise.

    The ledger is charged before the noise is drawn. Every call is a release of its own.

    Args:
        run: a finished run.
        epsilon: pure, for one test record.
        data: another `data.root`.

    Returns:
        What the statement says of it: `split`, `rows`, `epsilon`, `noisy_hits`, `low`, `high`,
        `confidence`, `unit`, `total_epsilon` (of all such releases of the data set), `run` (its
        line in the ledger) and `ledger`.

    Raises:
        UserError: no test rows, a data set without a name, or an epsilon that is not accepted.
        BudgetError: a budget for test records would be exceeded. Nothing is released then.
    """
    run.report()  # refuses a run that has not finished
    facts = read_json(run.release / "statement.json")
    config, noise = run.config, NoiseSource(None)
    rows = _test_rows(config, data)
    accuracy_interval(0, len(rows), epsilon, CONFIDENCE)  # refuses what is not accepted
    signing_key(run.ledger_folder)  # nothing is paid for that cannot be sealed
    ledger = Ledger(*_dataset(run))
    hits = _hits(run, rows)
    name = accuracy_run(run.id, 1 + sum(r.run.startswith(run.id) and r.unit == TEST_RECORD
                                        for r in ledger.runs()))  # fmt: skip
    ledger.open_run(
        RunRecord(
            name, PureRelease(epsilon), 1, unit=TEST_RECORD, mechanism="discrete_laplace",
            started=datetime.now(UTC).isoformat(timespec="seconds"),
        )
    )  # fmt: skip
    ledger.charge(name, 0, np.frombuffer(b"test accuracy   ", f"V{HASH_BYTES}"))
    noisy = noisy_hits(hits, epsilon, noise)
    low, high = accuracy_interval(noisy, len(rows), epsilon, CONFIDENCE)
    released = {
        "split": "test", "rows": len(rows), "epsilon": epsilon, "noisy_hits": noisy, "low": low,
        "high": high, "confidence": CONFIDENCE, "unit": TEST_RECORD,
        "total_epsilon": compose_epsilon(together(ledger.runs(), TEST_RECORD), 0.0),
        "run": name, "ledger": ledger.teacher,
    }  # fmt: skip
    total = {"total_epsilon": released["total_epsilon"]}
    before = [a | total for a in facts.get("accuracy", [])]
    write_statement(run, facts | {"accuracy": [*before, released]})
    measured = run.private / "evaluation.json"
    write_card(
        run, read_json(run.release / "statement.json"),
        read_json(measured) if measured.is_file() else None,
    )  # fmt: skip
    seal(run)
    return released


def accuracy_text(released: dict[str, Any]) -> str:
    """What was released, in one line."""
    return (
        f"accuracy on {released['rows']:,} test rows: {100 * released['low']:.2f} to "
        f"{100 * released['high']:.2f} % ({100 * released['confidence']:g} % interval, noise "
        f"included), on the card; charged: epsilon {released['epsilon']:g} for one "
        f"{released['unit']}, {released['total_epsilon']:g} with all such releases"
    )


def _dataset(run: Run) -> tuple[Path, str]:
    """Home and UUID of the data set, made where the name is known and no run has needed it."""
    if run.dataset is not None:
        if not run.dataset[0].is_dir():
            raise UserError(f"{run.dataset[0]}: no home of a data set's ledger; restore it")
        return run.dataset
    found = dataset_home(run.config, None, "an accuracy that is released")
    return run.config.teacher.root / found["folder"], found["uuid"]


def _test_rows(config: Config, data: Path | None) -> Split:
    if config.data.name == "none":
        raise UserError("data.name: none; an accuracy needs test rows")
    root = {} if data is None else {"root": data}
    rows = load_data(config.data.model_copy(update=root)).test
    if rows is None or not len(rows):
        raise UserError(f"data.name: {config.data.name} has no test rows to measure on")
    return rows


def _hits(run: Run, rows: Split) -> int:
    predict = Labeller(load_student(run), pick_device(run.config.device)).predict
    batches = rows.images.split(rows_at_once(tuple(rows.images.shape[1:])))
    said = torch.cat([predict(x).argmax(1) for x in batches])
    return int((said == rows.labels).sum())
