"""The section on FedDPSD in docs/results.md, from docs/results/federated/."""

import statistics
from pathlib import Path

from bench_tables.federated import (
    BASELINES,
    FEDERATED,
    baseline_facts,
    baseline_name,
    cells,
    configure,
    current_hash,
)

from dpsd.config import Config
from render_tables.common import column, not_measured, not_shown, read, sift, table


def federated(results: Path = FEDERATED) -> list[str]:
    """The tables; nothing where no cell was measured."""
    known = cells()
    measured = [p for p in results.glob("*-seed*.json") if not p.stem.startswith("baselines-")]
    current, stale = sift(measured, known, current_hash)
    if not measured:
        return []
    mains = {n: c for n, c in known.items() if n in current and "base" not in c}
    variants = {n: c for n, c in known.items() if n in current and "base" in c}
    aggregation = table(
        ("aggregation", "student", "base cell"),
        [[c["title"], column(current[n], "student_accuracy"), c["base"]]
         for n, c in variants.items()],
    )  # fmt: skip
    return [
        "## FedDPSD: clients that share neither data nor models",
        "",
        "Made by `scripts/bench federated`. Student accuracy is on the test rows, in percent, mean",
        "± standard deviation over seeds (of partition and run). Every eps names its unit. One",
        "answer's eps does not protect a record. The noise is seeded, so the runs themselves are",
        "not private. FedAvg (Flower's strategy) sends models and protects nobody; one shot makes",
        "12 local passes, as the teachers do, each of 20 rounds one (five, in batches of 10, where",
        "clients hold fewer than 2,000 rows on average; of more than 100 clients 100 take part in",
        "a round). Rows without noise weigh answers by the clients' exact label counts, which then",
        "travel too. MNIST's 60,000 rows less the holdout give 1,000 clients 54 rows each, not 60.",
        "",
        *table(
            ("data, mechanism, unit", "student", "must", "aim", "local only", "ensemble of logits",
             "FedAvg, 1 round", "FedAvg, 20 rounds", "images asked", "seconds", "seeds"),
            [_row(cell, current[name], results) for name, cell in mains.items()],
        ),
        "",
        *table(
            ("cell", "aggregate", "bytes down a client and round", "bytes up",
             "bytes of the model"),
            [_bytes(cell, current[name][0]) for name, cell in mains.items()],
        ),
        "",
        *([*aggregation, ""] if variants else []),
        *not_measured(known, current),
        *not_shown(stale),
    ]  # fmt: skip


def _row(cell: dict, runs: list[dict], results: Path) -> list[str]:
    beside = [_baselines(configure(cell, run["seed"], Path("teachers")), results) for run in runs]
    return [
        cell["title"], column(runs, "student_accuracy"),
        str(cell.get("must", "-")), str(cell.get("aim", "-")),
        *(column([b[key] for b in beside if key in b], "accuracy") for key in BASELINES),
        f"{runs[0]['answers']:,}", f"{statistics.fmean(r['seconds'] for r in runs):.0f}",
        str(len(runs)),
    ]  # fmt: skip


def _baselines(config: Config, results: Path) -> dict:
    """Baselines of the cell's partition, teachers and student; empty if outdated or missing."""
    kept = read(results / f"{baseline_name(config)}.json")
    same = kept.get("config_hash") == baseline_facts(config)["config_hash"]
    return kept if same else {}


def _bytes(cell: dict, run: dict) -> list[str]:
    down, up = (f"{run[f'bytes_{way}_per_client_and_round']:,.0f}" for way in ("down", "up"))
    return [cell["title"], run["aggregate"], down, up, f"{run['bytes_of_the_student']:,}"]
