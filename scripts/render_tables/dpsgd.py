"""The section on DP-SGD without transcription in docs/results.md, from docs/results/dpsgd-*."""

import statistics
from pathlib import Path

from bench_tables.dpsgd import cells, current_hash
from bench_tables.jobs import RESULTS

from render_tables.common import not_shown, percent, sift, table

TITLES = {"mnist": "MNIST", "fashion_mnist": "Fashion-MNIST"}


def dpsgd(results: Path = RESULTS) -> list[str]:
    """The table; nothing where no cell was measured."""
    measured = list(results.glob("dpsgd-*-seed*.json"))
    if not measured:
        return []
    known = cells()
    current, stale = sift(measured, known, current_hash)
    return [
        "## DP-SGD without transcription, unit: one record",
        "",
        "Made by `scripts/bench dpsgd`, with Opacus: what a user who still has the data would",
        "train instead. Eps is for **one record**, relation replace-one, delta 1e-5, one training.",
        "`cnn-small` is the students' architecture, with group norm; `cnn-tanh` a small CNN with",
        "bounded activations; `scatter-linear` a linear model on scattering features. Its recipe",
        "was tuned on holdout rows, which would cost privacy in earnest; those of the others in",
        "two or three trials only, at eps 1 on MNIST. `cnn-small` makes four epochs at every eps;",
        "more would give more at eps 10. Accuracy is on the test rows; runs had one core, some",
        "beside other work.",
        "",
        *table(
            ("data", "model", "eps per record", "accuracy", "seconds", "seeds"),
            [_row(known[name], current[name]) for name in known if name in current],
        ),
        "",
        *not_shown(stale),
    ]


def dpsgd_beside(name: str | None, results: Path = RESULTS) -> str:
    """Accuracy and seconds of one cell for a table's last column; `-` where it was not measured."""
    current, _ = sift(results.glob(f"{name}-seed*.json"), cells(), current_hash)
    return "{} in {} s".format(*_figures(current[name])) if name in current else "-"


def _figures(runs: list[dict]) -> tuple[str, str]:
    seconds = statistics.fmean(r["seconds"] for r in runs)
    return percent([r["accuracy"]["test"] for r in runs]), f"{seconds:.0f}"


def _row(cell: dict, runs: list[dict]) -> list[str]:
    setting = [TITLES[cell["data"]], cell["model"], str(cell["epsilon"])]
    return [*setting, *_figures(runs), str(len(runs))]
