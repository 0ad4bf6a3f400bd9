"""The tables of docs/results.md on transcription: units answer and record, and the ablations."""

import statistics

from bench_tables.cells import ablation_groups, ablations

from render_tables.common import column, not_measured, table
from render_tables.dpsgd import dpsgd_beside

Results = dict[str, list[dict]]
"""Cell -> its results, one a seed."""
ANSWER = """\
Every eps is **per answer** (unit: answer; delta 1e-5 for the Gaussian mechanism, 0 for
randomised response) and does not protect a record. The noise of these runs is seeded, so
the runs themselves are not private. Seconds are the mean of the runs that had both cores;
the accuracy of other seeds was measured on one core, beside other work.
"""
RECORD = """\
## Unit: one record

Every eps in this table is for **one record**, or one user with all records where the title
says so; relation replace-one, delta 1e-5, all answers and the training together. A seed
changes teachers, student and noise. Settings of the ensembles were chosen on the
holdout rows, of both data sets at eps 1 and 10 per record; those of DP-SGD and of the
students that inherit its guarantee on the holdout rows of each data set, at eps 3.
The last column: accuracy and seconds of a model of the student's architecture, trained
on the private data by DP-SGD with Opacus at the same eps, delta and relation.
"""
ABLATION = """\
## Ablations

One seed, half the answers of the base cell and two passes over them (ensembles: all of
both), on the test rows; nothing was chosen by them. With one seed, small differences
mean nothing. Every eps is for the unit that the heading names.
"""


def answer_table(cells: dict[str, dict], results: Results) -> list[str]:
    """The table for unit answer with the notes of its cells; it begins the page."""
    return [
        ANSWER,
        *table(
            ("data, mechanism, eps per answer", "answers", "teacher", "student", "agreement",
             "must", "aim", "seconds / allowed", "seeds", "reached"),
            [_answer_row(cell, results[name]) for name, cell in cells.items() if name in results],
        ),
        *_notes(cells, results),
        "",
        *not_measured(cells, results),
    ]  # fmt: skip


def record_table(cells: dict[str, dict], results: Results) -> list[str]:
    """The table for units record and user, with the seconds of teachers and transcription."""
    rows = [_record_row(cell, results[name]) for name, cell in cells.items() if name in results]
    if not rows:
        return []
    return [
        RECORD,
        *table(
            ("data, route, eps per record", "answers", "teacher or votes", "student", "must",
             "aim", "seconds, teachers + transcription", "seeds", "reached",
             "DP-SGD, same architecture"),
            rows,
        ),
        *_notes(cells, results),
        "",
        *not_measured(cells, results),
    ]  # fmt: skip


def ablation_tables(results: Results) -> list[str]:
    """One table a group; cells that were not measured yet are counted below."""
    cells, lines = ablations(), []
    for group, heading in ablation_groups().items():
        rows = [_ablation_row(cell, results[name]) for name, cell in cells.items()
                if cell["group"] == group and name in results]  # fmt: skip
        columns = ("variant", "answers", "teacher", "student", "agreement", "seconds")
        lines += [f"### {heading}", "", *table(columns, rows), ""] if rows else []
    missing = [name for name in cells if name not in results]
    if lines:
        lines = [
            ABLATION,
            *lines,
        ]
    if missing:
        lines += [f"Ablations not measured yet: {len(missing)} of {len(cells)}.", ""]
    return lines


def _answer_row(cell: dict, runs: list[dict]) -> list[str]:
    must, allowed, seconds = cell.get("must"), cell.get("seconds"), _seconds(runs)
    in_time = not allowed or seconds <= allowed
    return [
        cell["title"], *_figures(runs), str(must or "-"), str(cell.get("aim", "-")),
        f"{seconds:.0f} / {allowed or '-'}", str(len(runs)),
        "-" if must is None else _reached(cell, runs, in_time),
    ]  # fmt: skip


def _record_row(cell: dict, runs: list[dict]) -> list[str]:
    return [
        cell["title"], f"{runs[0]['answers']:,}", column(runs, "teacher_accuracy"),
        column(runs, "student_accuracy"), str(cell["must"]), str(cell["aim"]),
        f"{_seconds(runs, 'teacher_seconds'):.0f} + {_seconds(runs):.0f}", str(len(runs)),
        _reached(cell, runs), dpsgd_beside(cell.get("dpsgd")),
    ]  # fmt: skip


def _ablation_row(cell: dict, runs: list[dict]) -> list[str]:
    return [cell["title"], *_figures(runs), f"{_seconds(runs):.0f}"]


def _figures(runs: list[dict]) -> list[str]:
    """Answers, the teacher's mean accuracy, the student's accuracy and agreement."""
    teacher = 100 * statistics.fmean(r["teacher_accuracy"] for r in runs)
    student, agreement = column(runs, "student_accuracy"), column(runs, "agreement")
    return [f"{runs[0]['answers']:,}", f"{teacher:.2f}", student, agreement]


def _reached(cell: dict, runs: list[dict], in_time: bool = True) -> str:
    mean = 100 * statistics.fmean(r["student_accuracy"] for r in runs)
    so_far = " so far" if len(runs) < len(cell.get("seeds", [0])) else ""
    return ("yes" if mean >= cell["must"] and in_time else "no") + so_far


def _seconds(runs: list[dict], key: str = "seconds") -> float:
    """Mean over the runs that had the most threads; others ran beside other work."""
    most = max(r["machine"]["threads"] for r in runs)
    return statistics.fmean(r[key] for r in runs if r["machine"]["threads"] == most)


def _notes(cells: dict[str, dict], results: Results) -> list[str]:
    """The cells' own notes: what was tried for a missed figure, or how a figure was reached."""
    lines = [f"- {_with_unit(cell)}: {' '.join(cell['note'].split())}"
             for name, cell in cells.items() if "note" in cell and name in results]  # fmt: skip
    return ["", *lines] if lines else []


def _with_unit(cell: dict) -> str:
    """The title, with the unit where it names an epsilon."""
    unit = f" per {cell.get('unit', 'answer')}" if "eps" in cell["title"] else ""
    return cell["title"] + unit
