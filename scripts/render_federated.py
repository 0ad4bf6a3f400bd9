"""The section on FedDPSD in docs/results.md, from docs/results/federated/."""

import json
import statistics
from pathlib import Path

from bench_cells import not_shown, sift
from bench_federated_cells import (
    RESULTS,
    baseline_facts,
    baseline_name,
    cells,
    configure,
    current_hash,
)

from dpsd.config import Config

BASELINES = ("local-only", "ensemble", "fedavg-1", "fedavg-20")


def federated(results: Path = RESULTS) -> list[str]:
    """The tables; nothing where no cell was measured."""
    known = cells()
    measured = [p for p in results.glob("*-seed*.json") if not p.stem.startswith("baselines-")]
    found, stale = sift(measured, known, current_hash)
    if not measured:
        return []
    lines = [
        "## FedDPSD: clients that share neither data nor models",
        "",
        "Made by `scripts/bench_federated`. Student accuracy is on the test rows, in percent, mean",
        "± standard deviation over seeds (of partition and run). Every eps names its unit. One",
        "answer's eps does not protect a record. The noise is seeded, so the runs themselves are",
        "not private. FedAvg (Flower's strategy) sends models and protects nobody; one shot makes",
        "12 local passes, as the teachers do, each of 20 rounds one (five, in batches of 10, where",
        "clients hold fewer than 2,000 rows on average; of more than 100 clients 100 take part in",
        "a round). Rows without noise weigh answers by the clients' exact label counts, which then",
        "travel too. MNIST's 60,000 rows less the holdout give 1,000 clients 54 rows each, not 60.",
        "",
        "| data, mechanism, unit | student | must | aim | local only | ensemble of logits | "
        "FedAvg, 1 round | FedAvg, 20 rounds | images asked | seconds | seeds |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    mains = {n: c for n, c in known.items() if n in found and "base" not in c}
    lines += [_row(cell, found[name], results) for name, cell in mains.items()]
    lines += [
        "",
        "| cell | aggregate | bytes down a client and round | bytes up | bytes of the model |",
        "|---|---|---|---|---|",
        *(_bytes(cell, found[name][0]) for name, cell in mains.items()),
        "",
    ]
    variants = {n: c for n, c in known.items() if n in found and "base" in c}
    if variants:
        lines += ["| aggregation | student | base cell |", "|---|---|---|"]
        lines += [f"| {c['title']} | {_mean(found[n], 'student_accuracy')} | {c['base']} |"
                  for n, c in variants.items()]  # fmt: skip
        lines.append("")
    missing = [c["title"] for n, c in known.items() if n not in found]
    lines += [f"Not measured yet: {'; '.join(missing)}.", ""] if missing else []
    return lines + not_shown(stale)


def _row(cell: dict, runs: list[dict], results: Path) -> str:
    beside = [_baselines(configure(cell, run["seed"], Path("teachers")), results) for run in runs]
    shown = " | ".join(_mean([b[k] for b in beside if k in b], "accuracy") for k in BASELINES)
    return (
        f"| {cell['title']} | {_mean(runs, 'student_accuracy')} | {cell['must']} | {cell['aim']} | "
        f"{shown} | {runs[0]['answers']:,} | {statistics.fmean(r['seconds'] for r in runs):.0f} | "
        f"{len(runs)} |"
    )


def _baselines(config: Config, results: Path) -> dict:
    """Those of the cell's partition, teachers and student as they are configured now, if any."""
    path = results / f"{baseline_name(config)}.json"
    found = json.loads(path.read_text()) if path.exists() else {}
    return found if found.get("config_hash") == baseline_facts(config)["config_hash"] else {}


def _bytes(cell: dict, run: dict) -> str:
    down, up = (run[f"bytes_{way}_per_client_and_round"] for way in ("down", "up"))
    size = run["bytes_of_the_student"]
    return f"| {cell['title']} | {run['aggregate']} | {down:,.0f} | {up:,.0f} | {size:,} |"


def _mean(runs: list[dict], key: str) -> str:
    values = [100 * r[key] for r in runs]
    if not values:
        return "-"
    spread = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.2f}{spread}"
