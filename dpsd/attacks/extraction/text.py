"""An extraction report in words: tables for the terminal, a section for the card."""

from dataclasses import fields, replace
from typing import Any

import numpy as np

from dpsd.attacks.extraction.report import BOUNDARY
from dpsd.console import percent
from dpsd.evaluation.price import Price, price_table
from dpsd.tables import Table


def extraction_text(report: dict[str, Any]) -> str:
    """The figures of `extraction_report` for a terminal."""
    lines = [_head(report)]
    for table in _targets(report):
        lines += ["", table.text()]
    for target in report["targets"]:
        lines += ["", agreement_table(report, target).text()]
        if any(p["target"] == target for p in report["prices"]):
            lines += ["", _prices(report, target).text()]
    lines += ["", *_findings(report)]
    refused = {c["refused"] for c in report["cells"] if c["refused"]}
    return "\n".join([*lines, *(f"not run: {why}" for why in sorted(refused))])


def extraction_card(report: dict[str, Any]) -> str:
    """Markdown for the card of a run whose data are public."""
    lines = ["## Extraction", "", _head(report)]
    for table in _targets(report):
        lines += ["", table.markdown()]
    for target in report["targets"]:
        lines += ["", agreement_table(report, target).markdown()]
        if any(p["target"] == target for p in report["prices"]):
            lines += ["", _prices(report, target).markdown()]
    return "\n".join([*lines, "", *_findings(report)])


def agreement_table(report: dict[str, Any], target: str) -> Table:
    """Agreement of the last clone: a row for each attack, a column for each defence."""
    defences = report["defences"]
    ends: dict[str, dict[str, list[float]]] = {}
    for cell in report["cells"]:
        if cell["target"] == target:
            found = ends.setdefault(cell["attack"], {}).setdefault(cell["defence"], [])
            found += [cell["curve"][-1]["agreement"]] if cell["curve"] else []
    rows = [
        (attack, *(percent(float(np.mean(by[d])), 1) if by.get(d) else "-" for d in defences))
        for attack, by in ends.items()
    ]
    asked = max(report["ladder"])
    title = f"{target}: agreement of clones after {asked:,} asked images"
    return Table(("attack", *defences), rows, title=title)


def _targets(report: dict[str, Any]) -> list[Table]:
    """Accuracy of each target where labels are known, and what changed students cost."""
    targets, tables = report["targets"], []
    if report["labelled"]:
        rows = [(name, percent(facts["accuracy"])) for name, facts in targets.items()]
        tables.append(Table(("target", "accuracy"), rows, title="the targets, without a defence"))
    changed = [_as_price(facts["price"]) for facts in targets.values() if "price" in facts]
    if changed:
        table = price_table(changed)
        title = "changed students: the price for an honest user, beside the released student"
        tables.append(replace(table, columns=("target", *table.columns[1:]), title=title))
    return tables


def _prices(report: dict[str, Any], target: str) -> Table:
    """What each defence costs an honest user of the target."""
    prices = [_as_price(p) for p in report["prices"] if p["target"] == target]
    return replace(price_table(prices), title=f"{target}: the price for an honest user")


def _as_price(facts: dict[str, Any]) -> Price:
    known = {f.name for f in fields(Price)}
    return Price(**{k: v for k, v in facts.items() if k in known})


def _head(report: dict[str, Any]) -> str:
    measured = f"{report['rows']:,} rows" if report["labelled"] else (
        f"{report['rows']:,} synthetic images, as there are no data: agreement alone"
    )  # fmt: skip
    return (
        f"extraction, budget {report['budget']}: clones {report['model']}, pool {report['pool']}; "
        f"measured on {measured}. Agreement is with the answers before any defence; it is no "
        "measure of privacy. Near the boundary are rows on which the model's two likeliest "
        f"probabilities differ by less than {BOUNDARY:g}. In brackets: 95 % intervals (Wilson)."
    )


def _findings(report: dict[str, Any]) -> list[str]:
    return [
        f"{b['target']}, defence {b['defence']}: {b['attack']} copies best, "
        f"{percent(b['agreement'], 1)} agreement{_intervals(report, b)}"
        for b in report["best"]
    ]


def _intervals(report: dict[str, Any], best: dict[str, Any]) -> str:
    """The interval of a best attack's agreement, and its agreement near the boundary."""
    key = ("target", "defence", "attack")
    end = next(c["curve"][-1] for c in report["cells"]
               if c["curve"] and all(c[k] == best[k] for k in key))  # fmt: skip
    rows = report["targets"][best["target"]]["boundary_rows"]
    near = f"; near the boundary, {rows:,} of {report['rows']:,} rows"
    if rows:
        near += f": {percent(end['boundary_agreement'], 1)} {_brackets(end['boundary_interval'])}"
    return f" {_brackets(end['interval'])}{near}"


def _brackets(interval: list[float]) -> str:
    low, high = interval
    return f"({percent(low, 1)} to {percent(high, 1)})"
