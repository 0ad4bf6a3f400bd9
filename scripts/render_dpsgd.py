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
        "bounded activations; `scatter-linear` a linear model on scattering features, the only one",
        "whose recipe was tuned: on holdout rows, which would cost privacy in earnest. The others",
        "are not. Accuracy is on the test rows.",
        "",
        "| data | model | eps per record | accuracy | seconds | seeds |",
        "|---|---|---|---|---|---|",
        *(_row(known[name], found[name]) for name in known if name in found),
        "",
        *not_shown(stale),
    ]


def _row(cell: dict, runs: list[dict]) -> str:
    values = [100 * r["accuracy"]["test"] for r in runs]
    spread = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return (
        f"| {TITLES[cell['data']]} | {cell['model']} | {cell['epsilon']} | "
        f"{statistics.fmean(values):.2f}{spread} | "
        f"{statistics.fmean(r['seconds'] for r in runs):.0f} | {len(runs)} |"
    )
