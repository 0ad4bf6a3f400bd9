"""The section on downstream use: what a fresh model learns from 60,000 samples alone."""

from pathlib import Path

from bench_tables.downstream import MUST, cells, current_hash

from render_tables.common import column, not_measured, not_shown, sift, table

PUBLISHED = (
    ("DPDM (Dockhorn et al. 2023, arXiv 2210.09929), CNN", "MNIST", "95.3", "98.1"),
    ("the same", "Fashion-MNIST", "79.4", "86.2"),
)
"""Source, data, accuracy at eps 1 and at eps 10, as published."""


def downstream(folder: Path) -> list[str]:
    """The section; nothing without results."""
    known = cells()
    results, stale = sift(folder.glob("*-seed*.json"), known, current_hash)
    if not results:
        return not_shown(stale)
    measured = {name: cell for name, cell in known.items() if name in results}
    lines = ["", *(f"- {cell['title']}, per {cell['unit']}: {' '.join(cell['note'].split())}"
                   for cell in measured.values() if "note" in cell)]  # fmt: skip
    return [
        "## Downstream use: a fresh model, from samples alone",
        "",
        "`scripts/bench downstream`: `dpsd sample` draws images from a release, labelled by its",
        "student. A fresh model of another architecture learns from them alone (must: within "
        f"{100 * MUST:g} point",
        "of the student). The control learns, in one pass, from the same labels in random order.",
        "Accuracy is on the test rows; settings were chosen on holdout rows. Labels are the",
        "student's probabilities (soft) or its classes (hard). Every eps is for the unit that the",
        "row names (record: relation replace-one, delta 1e-5, the training and all answers; an",
        "eps per answer does not protect a record). The noise is seeded, so that these runs are",
        "not private.",
        "",
        *table(
            ("data, route or mechanism, eps", "unit", "answers", "samples, labels", "teacher",
             "student", "fresh model", "its accuracy", "control", "seeds", "reached"),
            [_row(cell, results[name]) for name, cell in measured.items()],
        ),
        *(lines if len(lines) > 1 else []),
        "",
        *not_measured(known, results),
        *not_shown(stale),
        "Published generators, unit record; eps, relation and accuracy as published:",
        "",
        *table(("source, classifier", "data", "eps 1", "eps 10"), PUBLISHED),
        "",
    ]  # fmt: skip


def _row(cell: dict, runs: list[dict]) -> list[str]:
    gap = sum(r["student"] - r["fresh"] for r in runs) / len(runs)
    first = runs[0]
    how = f"{first['samples']:,} {first['labels']}"
    softer = first.get("temperature", 1)
    how += f" at temperature {softer:g}" if softer > 1 else ""
    how += ", balanced" if first["choice"]["balanced"] else ""
    how += "".join(f", {key} {first['choice'][key]}" for key in ("best", "select")
                   if first["choice"][key] > 1)  # fmt: skip
    return [
        cell["title"], first["unit"], f"{first['answers']:,}", how,
        column(runs, "teacher"), f"{column(runs, 'student')} ({first['student_model']})",
        first["model"], column(runs, "fresh"), column(runs, "control"), str(len(runs)),
        "yes" if gap <= MUST else "no",
    ]  # fmt: skip
