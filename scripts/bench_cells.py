"""The cells of the benchmarks: what is run, under which configuration, and its hash."""

import hashlib
import json
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import yaml

from dpsd.config import Config, load_config, parse_config

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "docs" / "results"
_BUDGET = 0.5  # of an ablation, in units of its base cell's answers
_PASSES = 2  # of its fresh student over them, at most


def main_cells() -> dict[str, dict]:
    """Name -> cell: title, unit, config, overrides, must, aim, seconds allowed, seeds."""
    return _read("cells.yaml")


def ablation_groups() -> dict[str, str]:
    """Name of a group -> heading of its table."""
    return _read("ablations.yaml")["groups"]


def ablations() -> dict[str, dict]:
    """Name -> cell that stands on a base among the main cells, with its own overrides behind."""
    main, found = main_cells(), {}
    for name, cell in _read("ablations.yaml")["cells"].items():
        base = main[cell["base"]]
        overrides = [*base.get("set", []), *cell.get("set", [])]
        same = {"config": base["config"], "set": overrides, "unit": base.get("unit", "answer")}
        found[name] = {"budget": _BUDGET} | cell | same
    return found


def configure(cell: dict, seed: int, teachers: Path, shrink: int = 1) -> Config:
    """The cell's configuration, with its budget; `shrink` divides answers and rounds for trials."""
    config = load_config(
        ROOT / "configs" / cell["config"],
        [*cell.get("set", []), f"seed={seed}", f"teacher.root={teachers}",
         "privacy.insecure_seeded_noise=true",
         *([f"teacher.seed={seed}"] if cell.get("unit", "answer") != "answer" else []),
         *([f"data.user_ids={_users_file(teachers, cell['users'])}"] if "users" in cell else [])],
    )  # fmt: skip
    tree = config.model_dump(mode="json")
    if "trainable_share" in cell:
        share, shares = cell["trainable_share"], tree["generator"]["shares"]
        shares.pop("adversarial", None)
        shares["adversarial"] = sum(shares.values()) * share / (1 - share)
    rounds = max(2, config.loop.rounds // shrink)
    answers = config.answers() * cell.get("budget", 1) / shrink
    if cell.get("budget", 1) < 1:
        tree["student"]["refit_epochs"] = min(_PASSES, config.student.refit_epochs)
    tree["loop"] |= {"rounds": rounds, "queries_per_round": None}
    tree["privacy"]["answers"] = rounds * max(1, round(answers / rounds))
    return parse_config(tree)


def config_hash(config: Config, control: str | None = None) -> str:
    """Of everything but the place of the teachers and the data."""
    tree = config.model_dump(mode="json")
    tree["teacher"].pop("root"), tree["data"].pop("root"), tree.pop("attacks"), tree.pop("threads")
    if config.data.user_ids is not None:
        tree["data"]["user_ids"] = config.data.user_ids.name
    if config.privacy.route != "federated":
        tree.pop("federated")  # not read
    if control is not None:
        tree["control"] = control
    return hashlib.blake2b(json.dumps(tree, sort_keys=True).encode(), digest_size=8).hexdigest()


def current_hash(cell: dict, seed: int) -> str:
    """`config_hash` of what the cell runs now."""
    with tempfile.TemporaryDirectory() as folder:
        return config_hash(configure(cell, seed, Path(folder)), cell.get("control"))


def sift(
    paths: Iterable[Path], cells: dict[str, dict], hash_of: Callable[[dict, int], str]
) -> tuple[dict[str, list[dict]], list[str]]:
    """Cell -> its results, one a seed, and the names of files with another configuration's."""
    found: dict[str, list[dict]] = {}
    stale = []
    for path in sorted(paths):
        result = json.loads(path.read_text())
        cell = cells.get(result["cell"])
        if cell is not None and hash_of(cell, result["seed"]) == result["config_hash"]:
            found.setdefault(result["cell"], []).append(result)
        else:
            stale.append(path.stem)
    return found, stale


def not_shown(stale: list[str]) -> list[str]:
    """A line that names them; nothing if there are none."""
    return [f"Measured with an earlier configuration, not shown: {', '.join(stale)}.", ""] * bool(
        stale
    )


def measured(wanted: str, seed: int) -> dict | None:
    """A result of this configuration and seed, under whatever name, or None."""
    for path in sorted(RESULTS.glob("*-seed*.json")):
        result = json.loads(path.read_text())
        if (result["config_hash"], result["seed"]) == (wanted, seed):
            return result
    return None


def _users_file(folder: Path, records: int, rows: int = 60_000) -> Path:
    """Made-up users of MNIST's training rows, so many records each, by row number."""
    path = folder.resolve() / f"users-{rows}-{records}.npz"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        user_of = np.arange(rows) // records
        np.savez(path, user_ids=user_of, roster=np.unique(user_of))
    return path


def _read(name: str) -> dict:
    return yaml.safe_load((ROOT / "scripts" / name).read_text())
