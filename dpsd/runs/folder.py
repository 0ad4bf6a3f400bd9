"""Run folders: a part for release, a private part, and nothing half-written in either."""

import json
import os
import platform
import subprocess
import time
import uuid
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path, PurePath
from typing import Any

import torch
import yaml
from safetensors.torch import save_file
from torch import Tensor

from dpsd.config import Config, flatten, parse_config, placed
from dpsd.data.photographs import pinned
from dpsd.errors import UserError
from dpsd.files import append_lines, make_once, read_json, read_lines, sync, whole_file, write_json
from dpsd.privacy.notebook import Statement, page, read_statement, statement_rows

_KEPT_CHECKPOINTS = 2
_BEGUN = ("config.yaml", "env.json")


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


def create_run(
    path: Path,
    config: Config,
    teacher: str,
    teacher_folder: Path,
    *,
    data_is_public: bool,
    ledger: str | None = None,
    ledger_folder: Path | None = None,
    dataset: tuple[Path, str] | None = None,
    grouping: str = "",
) -> Run:
    """Make a run folder. By default answers are charged to the teacher, in its folder.

    Raises:
        UserError: the folder exists, or another process has just made it.
    """
    refuse_existing(path)
    for folder in (path / "release", path / "private" / "bank", path / "private" / "checkpoints"):
        folder.mkdir(parents=True, exist_ok=True)
    os.chmod(path / "private", 0o700)
    plain = _placed(config).model_dump(mode="json")
    released = released_config(plain)
    (path / "release" / _BEGUN[0]).write_text(yaml.safe_dump(released, sort_keys=False))
    write_json(path / "release" / _BEGUN[1], environment(config))
    facts = {
        "run": str(uuid.uuid4()), "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "teacher": teacher, "teacher_folder": str(teacher_folder.absolute()),
        "ledger": ledger or teacher,
        "ledger_folder": str((ledger_folder or teacher_folder).absolute()),
        "dataset": None if dataset is None else [str(dataset[0].absolute()), dataset[1]],
        "grouping": grouping, "data_is_public": data_is_public, "config": plain,
    }  # fmt: skip
    # Last: a folder with run.json is whole, and one process made it.
    if not make_once(path / "private" / "run.json", json.dumps(facts, indent=2).encode() + b"\n"):
        raise UserError(f"--out {path}: another process has just made it")
    return Run(path)


def _placed(config: Config) -> Config:
    """`placed`, with the photographs that are found there now, by their hashes."""
    config = placed(config)
    return config.model_copy(update={"generator": pinned(config.generator)})


def released_config(plain: dict[str, Any]) -> dict[str, Any]:
    """The part of a configuration that may be released: what made the student.

    How the teacher was trained may follow from its private data (people choose a learning rate on
    them, or compute a normalisation from them). So of the teacher only the number of shards is
    here, which is a parameter of the mechanism, and a normalisation that is declared public.
    """
    teacher: dict[str, Any] = {"shards": plain["teacher"]["shards"]}
    if (normalize := plain["teacher"]["normalize"]) is not None and normalize["public"]:
        teacher["normalize"] = normalize
    data = {k: v for k, v in plain["data"].items() if k != "root"}
    for key in ("rows", "user_ids"):  # that there is one is public, its place is not
        data[key] = None if data[key] is None else "not-released"
    generator = plain["generator"]
    if generator["photographs"] is not None:  # names and hashes are public, their places are not
        names = [p | {"file": PurePath(p["file"]).name} for p in generator["photographs"]]
        generator = generator | {"photographs": names}
    rest = {k: v for k, v in plain.items() if k != "attacks"}
    return rest | {"teacher": teacher, "data": data, "generator": generator}


def refuse_existing(path: Path) -> None:
    """Refuse a folder that holds more than what a stopped start left behind.

    Raises:
        UserError: the folder exists and holds anything else.
    """
    if path.exists() and not _left_behind(path):
        raise UserError(f"--out {path}: exists; go on with --resume or choose another folder")


def _left_behind(path: Path) -> bool:
    """Whether the folder holds nothing but what `create_run` writes before `run.json`."""
    if not path.is_dir() or {p.name for p in path.iterdir()} - {"release", "private"}:
        return False
    names = (p.name.lstrip(".").removesuffix(".partial") for p in path.rglob("*") if not p.is_dir())
    return all(name in _BEGUN or name.startswith("run-") for name in names)


_MAY_CHANGE = ("federated.quorum", "federated.deadline_s", "threads")


def resume_run(path: Path, config: Config) -> Run:
    """Open a run that was stopped.

    The quorum, the deadline and the number of threads may change, because no answer and no noise
    depends on them. A federation may have lost a client for good.

    Raises:
        UserError: no run is there, or its configuration differs; the message names the keys.
    """
    run = open_run(path)
    was, data = run.config.data, config.data
    found = {"units": data.units or was.units, "dataset": data.dataset or was.dataset}
    config = config.model_copy(update={"data": data.model_copy(update=found)})  # found as it began
    old, new = (flatten(_placed(c).model_dump(mode="json")) for c in (run.config, config))
    changed = [k for k in sorted(old.keys() | new.keys()) if old.get(k) != new.get(k)]
    finished = (run.private / "report.json").exists()
    differ = [k for k in changed if finished or k not in _MAY_CHANGE]
    if differ:
        changes = ", ".join(f"{k} ({old.get(k)} -> {new.get(k)})" for k in differ)
        raise UserError(f"--resume {path}: another configuration: {changes}")
    return _reconfigured(run, config) if changed else run


def _reconfigured(run: Run, config: Config) -> Run:
    """The run with quorum, deadline and threads of `config`; each file is written whole."""
    f = config.federated
    changed = {"quorum": f.quorum, "deadline_s": f.deadline_s}
    released = run.release / "config.yaml"
    plain = yaml.safe_load(released.read_text())
    plain["threads"] = config.threads
    plain["federated"] |= changed
    with whole_file(released) as partial:
        partial.write_text(yaml.safe_dump(plain, sort_keys=False))
    facts = read_json(run.private / "run.json")
    facts["config"]["threads"] = config.threads
    facts["config"]["federated"] |= changed
    write_json(run.private / "run.json", facts)
    return Run(run.path)


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


def environment(config: Config) -> dict[str, Any]:
    """Versions, cores, device, git revision: public facts of the machine."""
    packages = ("dpsd", "torch", "torchvision", "numpy", "scipy", "safetensors")
    return {
        "python": platform.python_version(),
        "platform": platform.machine(),
        "packages": {name: version(name) for name in packages},
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": config.device,
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "git": _revision(),
        "seed": config.seed,
    }


def default_run_folder(config: Config) -> Path:
    """`runs/<data>-<mechanism>-<time>`."""
    stamp = time.strftime("%Y%m%d-%H%M%S")
    return Path("runs") / f"{config.data.name.replace(':', '.')}-{config.privacy.mechanism}-{stamp}"


def _revision() -> str | None:
    try:
        revision = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=Path(__file__).parent, capture_output=True, text=True,
            timeout=5, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
    return revision.stdout.strip()
