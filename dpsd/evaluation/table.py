"""The figures of an evaluation as text."""

from typing import Any

from dpsd.console import percent
from dpsd.tables import Table


def evaluation_table(result: dict[str, Any]) -> str:
    """The result of `evaluate` as plain text for a terminal."""
    teacher, student = result["teacher"], result["student"]
    figures = [
        ("teacher", percent(teacher["accuracy"]), "-", _calibration(teacher["ece"])),
        (
            "student",
            percent(student["accuracy"]),
            percent(student["agreement"]),
            _calibration(student["ece"]),
        ),
    ]
    parts = [
        _measured_on(result["split"], result["rows"]),
        Table(("", "accuracy", "agreement", "ECE"), figures).text(),
        f"agreement with {result['agreement_with']}",
    ]
    gain = student.get("gain_nats_per_answer")
    if gain is not None:
        parts.append(f"gain over a uniform guess in predicting them: {gain:.4f} nats per answer")
    if result["per_class"]:
        classes = [
            (c["class"], f"{c['rows']:,}", percent(c["teacher"]), percent(c["student"]))
            for c in result["per_class"]
        ]
        parts += ["", Table(("class", "rows", "teacher", "student"), classes).text()]
    return "\n".join(parts)


def _measured_on(split: str | None, rows: int) -> str:
    if split is None:
        return f"no labelled rows (dpsd evaluate RUN --rows PATH); {rows:,} held-out paid answers"
    return f"{rows:,} given rows" if split == "given" else f"split {split}, {rows:,} rows"


def _calibration(error: float | None) -> str:
    return "-" if error is None else f"{error:.4f}"
