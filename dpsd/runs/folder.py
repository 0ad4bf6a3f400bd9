"""Run folders: a part for release, a private part, and nothing half-written in either."""

import json
import os
import time
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from dpsd.config import Config, parse_config
from dpsd.errors import UserError
from dpsd.files import append_lines, read_json, read_lines, sync, whole_file, write_json
from dpsd.privacy.notebook import Statement, page, read_statement, statement_rows

_KEPT_CHECKPOINTS = 2


class Run:
    """One run's folder.

    Attributes:
        path: the folder; `release` and `private` lie in it.
        id: the run's UUID, as the ledger knows it.
        started: UTC time of the start, ISO 8601.
        teacher, teacher_folder: the teacher's UUID and home.
        ledger, ledger_folder: what answers are charged to, and where its ledger lies. It is the
            teacher, or the data set where the unit is a record or a user.
        dataset: home and UUID of the data set, in whose ledger the run is entered; None: unnamed.
        grouping: which rows make one user or client, a random id; empty for other units.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.release, self.private = path / "release", path / "private"
        self.bank, self.checkpoints = self.private / "bank", self.private / "checkpoints"
        facts = read_json(self.private / "run.json")
        try:
            self.id, self.started = str(facts["run"]), str(facts["started"])
            self.teacher_folder, self.teacher = Path(facts["teacher_folder"]), str(facts["teacher"])
            self.ledger_folder, self.ledger = Path(facts["ledger_folder"]), str(facts["ledger"])
            self.data_is_public = bool(facts["data_is_public"])
            self.grouping, dataset = str(facts.get("grouping", "")), facts.get("dataset")
            self.dataset = None if dataset is None else (Path(dataset[0]), str(dataset[1]))
        except KeyError as e:
            raise UserError(
                f"{self.private / 'run.json'}: no key {e.args[0]!r}; the file is damaged, or the "
                "run was made by an older version; transcribe again"
            ) from e
        self.config = parse_config(facts["config"])

    @property
    def statement(self) -> Statement:
        """What the release says of itself; in a notebook, a table and its text.

        Raises:
            UserError: the run has not finished.
        """
        return read_statement(self.release)

    def _repr_html_(self) -> str:
        rows = [("run", self.id), ("folder", str(self.path)), ("started", self.started)]
        if (self.release / "statement.json").is_file():
            rows += statement_rows(self.statement.facts)
        else:
            rows.append(("state", "not finished; --resume goes on with it"))
        return page("Run", rows)

    def log(self, record: dict[str, Any], seconds: float) -> None:
        """Append a round's public record to `release/metrics.jsonl`, and its seconds apart.

        How long private computation took may depend on the data, so no seconds are released.

        Args:
            record: public figures of the round, with its number as `round`.
            seconds: from the start of the run to the end of the round; for
                `private/seconds.jsonl`.
        """
        append_lines(self.release / "metrics.jsonl", [record])
        append_lines(self._seconds, [{"round": record["round"], "seconds": seconds}])

    def metrics(self) -> list[dict[str, Any]]:
        """The public records, oldest first."""
        return read_lines(self.release / "metrics.jsonl")

    def seconds(self) -> float:
        """Seconds that the finished rounds took, over all processes of the run."""
        return float(max((line["seconds"] for line in read_lines(self._seconds)), default=0.0))

    def forget_rounds(self, start: int) -> None:
        """Drop what was logged of the rounds from `start` on; they are done again."""
        for path in (self.release / "metrics.jsonl", self._seconds):
            kept = [line for line in read_lines(path) if line["round"] < start]
            path.unlink(missing_ok=True)
            append_lines(path, kept)

    @property
    def _seconds(self) -> Path:
        return self.private / "seconds.jsonl"

    def save_checkpoint(self, state: dict[str, Any], round: int) -> None:
        """Write a checkpoint whole or not at all, then prune the older ones.

        Raises:
            UserError: the disk is full or not writable; the previous checkpoint stays whole.
        """
        path = self.checkpoints / f"round-{round:06d}.pt"
        try:
            with whole_file(path) as partial:
                with partial.open("wb") as f:
                    torch.save(state | {"round": round}, f)
                sync(partial)
        except (UserError, RuntimeError) as e:
            raise UserError(
                f"checkpoint of round {round}: {e}; the one before is whole, make room and go on "
                "with --resume"
            ) from e
        for old in sorted(self.checkpoints.glob("round-*.pt"))[:-_KEPT_CHECKPOINTS]:
            old.unlink()

    def load_checkpoint(self) -> dict[str, Any] | None:
        """The newest checkpoint, or None.

        Raises:
            UserError: it cannot be read.
        """
        checkpoints = sorted(self.checkpoints.glob("round-*.pt"))
        if not checkpoints:
            return None
        try:
            state: dict[str, Any] = torch.load(
                checkpoints[-1], map_location="cpu", weights_only=True
            )
        except Exception as e:
            raise UserError(
                f"checkpoint {checkpoints[-1]}: unreadable ({type(e).__name__}); remove it to go "
                "on from the one before"
            ) from e
        return state

    def save_weights(self, name: str, state: dict[str, Tensor], facts: dict[str, Any]) -> None:
        """Write safetensors under `release/`, whole or not at all; facts go in its header."""
        write_weights(self.release / f"{name}.safetensors", state, facts)

    def write_report(self, report: dict[str, Any]) -> None:
        """Write `private/report.json`."""
        write_json(self.private / "report.json", report)

    def report(self) -> dict[str, Any]:
        """`private/report.json`.

        Raises:
            UserError: the run has not finished.
        """
        return read_json(self.private / "report.json")


def write_weights(path: Path, state: dict[str, Tensor], facts: dict[str, Any]) -> None:
    """Write safetensors, whole or not at all; facts go in the header."""
    header = {"dpsd": json.dumps(facts)}  # one key: the order of several is not reproducible
    with whole_file(path) as partial:
        save_file({k: v.cpu().contiguous() for k, v in state.items()}, partial, header)
        os.chmod(partial, 0o644)


def declared_public(run: Run) -> Run:
    """The run, with its data declared public after it began."""
    facts = read_json(run.private / "run.json")
    write_json(run.private / "run.json", facts | {"data_is_public": True})
    return Run(run.path)


def open_run(path: Path | str) -> Run:
    """Open an existing run folder.

    Raises:
        UserError: no run folder is there.
    """
    path = Path(path)
    if not (path / "private" / "run.json").is_file():
        raise UserError(f"run {path}: no run folder (private/run.json is missing)")
    return Run(path)


def default_run_folder(config: Config) -> Path:
    """`runs/<data>-<mechanism>-<time>`."""
    stamp = time.strftime("%Y%m%d-%H%M%S")
    return Path("runs") / f"{config.data.name.replace(':', '.')}-{config.privacy.mechanism}-{stamp}"
