"""The cells of accuracy and ablations: what is run, under which configuration, and its hash."""

import json
import tempfile
from pathlib import Path

import numpy as np
import sklearn.datasets
import yaml

from bench_tables.jobs import ROOT, digest
from dpsd.config import Config, load_config, parse_config
from dpsd.runs.folder import Run

_BUDGET = 0.5  # of an ablation, in units of its base cell's answers
_PASSES = 2  # of its fresh student over them, at most


def main_cells() -> dict[str, dict]:
    """Name -> cell: title, unit, config, overrides, must, aim, seconds allowed, seeds."""
    return _read("cells.yaml")


def ablation_groups() -> dict[str, str]:
    """Name of a group -> heading of its table."""
    return {name: group["heading"] for name, group in _read("ablations.yaml").items()}


def ablations() -> dict[str, dict]:
    """Name -> cell: a base among the main cells, then the overrides of its group and its own."""
    main, cells = main_cells(), {}
    for name, group in _read("ablations.yaml").items():
        shared = {k: v for k, v in group.items() if k not in ("cells", "heading", "set")}
        for short, own in group["cells"].items():
            cell = {"budget": _BUDGET, "group": name} | shared | own
            base = main[cell["base"]]
            overrides = [o for part in (base, group, own) for o in part.get("set", [])]
            same = {"config": base["config"], "unit": base.get("unit", "answer")}
            cells[f"ablation-{short}"] = cell | same | {"set": overrides}
    return cells


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
    if "photographs" in cell:
        tree["generator"]["photographs"] = [str(_shipped(name)) for name in cell["photographs"]]
    tree["loop"] |= {"rounds": rounds, "queries_per_round": None}
    tree["privacy"]["answers"] = rounds * max(1, round(answers / rounds))
    return parse_config(tree)


GONE = {"threshold": None, "threshold_share": 0.1, "threshold_answers": None}
"""Removed keys of `privacy` with the value that every cell had; hashes still cover them."""
TRUST = {"": ("threads", "owner", "retention"), "privacy": ("allow_open", "allow_large_delta"),
         "data": ("root", "units"), "teacher": ("root",)}  # fmt: skip
"""Keys by section that no figure depends on."""
LATER = {
    "data": {"class_names": None},
    "generator": {"photographs": None, "augment": None, "network": "decoder", "untrained": 0.0,
                  "restart": None, "source_sha256": None},
    "student": {"balance": 0.0, "optimizer": "adamw", "micro_batch": None},
}  # fmt: skip
"""Keys by section that came after cells were measured; a hash covers them where they are set."""


def hashed_tree(config: Config) -> dict:
    """What a configuration's hash covers: all that a figure depends on."""
    tree = config.model_dump(mode="json")
    for section, keys in TRUST.items():
        for key in keys:
            (tree[section] if section else tree).pop(key)
    tree["teacher"]["dataset"] = None  # the older place of the name, which no cell gave
    tree["data"].pop("dataset")
    tree["privacy"] |= GONE
    for section, keys in LATER.items():
        for key, unset in keys.items():
            if tree[section][key] == unset:
                tree[section].pop(key)
    for photograph in tree["generator"].get("photographs", ()):
        photograph["file"] = Path(photograph["file"]).name  # wherever it lies
    return tree


def stated_epsilon(run: Run) -> float | None:
    """The epsilon in the statement's figures, also where seeded noise makes them void."""
    statement = json.loads((run.release / "statement.json").read_text())
    return statement["guarantee"]["epsilon"]


def config_hash(config: Config, control: str | None = None) -> str:
    """The hash of a configuration, without the place of the teachers and the data."""
    tree = hashed_tree(config)
    tree.pop("attacks")
    if config.data.user_ids is not None:
        tree["data"]["user_ids"] = config.data.user_ids.name
    if config.privacy.route != "federated":
        tree.pop("federated")  # not read
    if control is not None:
        tree["control"] = control
    return digest(json.dumps(tree, sort_keys=True))


def current_hash(cell: dict, seed: int) -> str:
    """`config_hash` of what the cell runs now."""
    with tempfile.TemporaryDirectory() as folder:
        return config_hash(configure(cell, seed, Path(folder)), cell.get("control"))


def _users_file(folder: Path, records: int, rows: int = 60_000) -> Path:
    """The file of made-up users of MNIST's training rows: `records` rows each, by row number."""
    path = folder.resolve() / f"users-{rows}-{records}.npz"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        user_of = np.arange(rows) // records
        np.savez(path, user_ids=user_of, roster=np.unique(user_of))
    return path


def _shipped(name: str) -> Path:
    """A photograph that ships with scikit-learn or scikit-image."""
    own = Path(sklearn.datasets.__file__).parent / "images" / name
    if own.exists():
        return own
    import skimage  # of the extra `dev`: only these cells need it

    return Path(skimage.__file__).parent / "data" / name


def _read(name: str) -> dict:
    return yaml.safe_load((Path(__file__).parent / name).read_text())
