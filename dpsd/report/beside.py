"""The table that compares a run with others; each figure keeps its unit."""

from collections.abc import Sequence
from typing import Any

from dpsd.attacks.inversion.report import JUDGES
from dpsd.console import percent, show_epsilon
from dpsd.report.attacks import student_findings
from dpsd.report.guarantee import SURE, unit_words
from dpsd.report.parts import Grid, Part, Section, Text
from dpsd.report.source import Source
from dpsd.tables import Table


def beside_section(mine: Source, others: Sequence[Source]) -> Section:
    """Key figures of several runs, a row for each figure and a column for each run."""
    sources = [mine, *others]
    names = _names(sources)
    columns = [_figures(source) for source in sources]
    rows = [(name, *(column[name] for column in columns)) for name in columns[0]]
    units = {source.facts["unit"] for source in sources}
    parts: list[Part] = [
        Grid(Table(("figure", *names), rows, align="l" * (len(names) + 1), title="Runs compared")),
    ]
    if len(units) > 1:
        parts.append(Text("These runs protect different units: their epsilons cannot be compared. "
                          "The share of members found can.", "note"))  # fmt: skip
    splits = {(m or {}).get("split") for m in (s.measured("evaluation.json") for s in sources)}
    if len(splits - {None}) > 1:
        parts.append(Text("The accuracies were measured on different rows.", "note"))
    return Section("beside", "Compared with other runs", mine.private is not None, parts)


def _names(sources: Sequence[Source]) -> list[str]:
    """A name for each run; equal ones are numbered."""
    names = [source.name for source in sources]
    return [name if names.count(name) == 1 else f"{name} ({names[: i + 1].count(name)})"
            for i, name in enumerate(names)]  # fmt: skip


def _figures(source: Source) -> dict[str, str]:
    facts, g = source.facts, source.facts["guarantee"]
    stamp = "" if facts["private"] else ", NOT PRIVATE"
    found = {
        "data set": str(facts["dataset"] or "not named"),
        "route, mechanism": f"{facts['route']}, {facts['mechanism']['mechanism']}",
        "unit": f"one {facts['unit']}{stamp}",
        "epsilon": f"{show_epsilon(g['epsilon'])} {unit_words(facts)}, delta {facts['delta']:.3g}"
        + stamp,
        "epsilon with earlier runs": f"{show_epsilon(g['composed_epsilon'])} {unit_words(facts)}"
        + stamp,
        "records found, at most, at 1 % false alarms": _found(g["record_highest_tpr"]),
        "answers": f"{facts['answers_made']:,}",
    }
    released = facts.get("accuracy", [])
    if released:
        a = released[-1]
        found["accuracy, released with noise"] = (
            f"{percent(a['low'], 1)} to {percent(a['high'], 1)}"
        )
    else:
        found["accuracy, released with noise"] = "-"
    return found if source.private is None else found | _private(source)


def _found(rate: float) -> str:
    return "no bound" if rate > SURE else percent(rate, 1)


def _private(source: Source) -> dict[str, str]:
    e: dict[str, Any] = source.measured("evaluation.json") or {"student": {}, "teacher": {}}
    on = f", {e['split']} rows" if "split" in e else ""
    accuracy = {name: e[name].get("accuracy") for name in ("student", "teacher")}
    verdicts, untried = dict(student_findings(source)), "not tried"
    return {
        "student's accuracy": f"{percent(accuracy['student'])}{on}",
        "teacher's accuracy": f"{percent(accuracy['teacher'])}{on}",
        "membership, unit record": _membership(source) + verdicts.get("membership", untried),
        "reconstruction, of classes": _inversion(source) + verdicts.get("inversion", untried),
        "audit": verdicts.get("audit", untried),
        "extraction, best agreement": _extraction(source),
    }


def _membership(source: Source) -> str:
    report = source.measured("attacks", "membership", "report.json")
    mine = [c["auc"] for c in (report or {"cells": []})["cells"] if c["target"] == "run student"]
    return f"AUC up to {max(mine):.3f} on the student: " if mine else ""


def _inversion(source: Source) -> str:
    report = source.measured("attacks", "inversion", "report.json")
    if report is None:
        return ""
    value = report["headline"]["student"]["value"]
    return f"{value:+.2f} over the baseline ({JUDGES[-1]} judges): "


def _extraction(source: Source) -> str:
    report = source.measured("attacks", "extraction", "report.json")
    best = [b for b in (report or {"best": []})["best"] if b["target"] == "student"]
    if not best:
        return "not tried"
    top = max(best, key=lambda b: float(b["agreement"]))
    return f"{percent(top['agreement'], 1)} ({top['attack']}, {top['defence']})"
