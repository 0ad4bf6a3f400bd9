"""The section on DP-SGD without transcription in docs/results.md, from docs/results/dpsgd-*."""

import statistics
from pathlib import Path

from bench_cells import not_shown, sift
from bench_dpsgd_cells import RESULTS, cells, current_hash

TITLES = {"mnist": "MNIST", "fashion_mnist": "Fashion-MNIST"}


def dpsgd(results: Path = RESULTS) -> list[str]:
    """The table; nothing where no cell was measured."""
    measured = list(results.glob("dpsgd-*-seed*.json"))
    if not measured:
        return []
    known = cells()
    found, stale = sift(measured, known, current_hash)
    return [
        "## DP-SGD without transcription, unit: one record",
        "",
        "Made by `scripts/bench_dpsgd`, with Opacus: what a user who still has the data would",
        "train instead. Eps is for **one record**, relation replace-one, delta 1e-5, one training.",
        "`cnn-small` is the students' architecture, with group norm; `cnn-tanh` a small CNN with",
        "bounded activations; `scatter-linear` a linear model on scattering features. Its recipe",
        "was tuned on holdout rows, which would cost privacy in earnest; those of the others in",
        "two or three trials only, at eps 1 on MNIST. `cnn-small` makes four epochs at every eps;",
        "more would give more at eps 10. Accuracy is on the test rows; runs had one core, some",
        "beside other work.",
        "",
        "| data | model | eps per record | accuracy | seconds | seeds |",
        "|---|---|---|---|---|---|",
        *(_row(known[name], found[name]) for name in known if name in found),
        "",
        *not_shown(stale),
    ]


def dpsgd_beside(name: str | None, results: Path = RESULTS) -> str:
    """Accuracy and seconds of one cell for a table's last column; `-` where it was not measured."""
    found, _ = sift(results.glob(f"{name}-seed*.json"), cells(), current_hash)
    return f"{_accuracy(found[name])} in {_seconds(found[name])} s" if name in found else "-"


def _accuracy(runs: list[dict]) -> str:
    values = [100 * r["accuracy"]["test"] for r in runs]
    spread = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.2f}{spread}"


def _seconds(runs: list[dict]) -> str:
    return f"{statistics.fmean(r['seconds'] for r in runs):.0f}"


def _row(cell: dict, runs: list[dict]) -> str:
    return (
        f"| {TITLES[cell['data']]} | {cell['model']} | {cell['epsilon']} | {_accuracy(runs)} | "
        f"{_seconds(runs)} | {len(runs)} |"
    )
