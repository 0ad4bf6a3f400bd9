"""Make a run's folder, or open one that was stopped; what of its configuration is released."""

import json
import os
import platform
import subprocess
import uuid
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path, PurePath
from typing import Any

import torch
import yaml

from dpsd.config import Config, flatten, placed
from dpsd.data.photographs import pinned
from dpsd.errors import UserError
from dpsd.files import make_once, read_json, whole_file, write_json
from dpsd.runs.folder import Run, open_run

_BEGUN = ("config.yaml", "env.json")
_MAY_CHANGE = ("federated.quorum", "federated.deadline_s", "threads")


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


def _revision() -> str | None:
    try:
        revision = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=Path(__file__).parent, capture_output=True, text=True,
            timeout=5, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
    return revision.stdout.strip()
