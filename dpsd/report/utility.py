"""The section on what the student is worth."""

from typing import Any

from dpsd.console import percent
from dpsd.report.card import UTILITY, card_parts, measured_sections
from dpsd.report.parts import Drawing, Facts, Grid, Heading, Part, Row, Section, Text
from dpsd.report.plots import Axis, Curve, bars, curves, heat, share, whole
from dpsd.report.source import Source
from dpsd.tables import Table

_MOST_CLASSES = 20
_OVER_ANSWERS = {
    "agreement_with_answers": ("agreement with the answers", "Agreement with the answers as they "
    "come in. The answers are noisy, so that agreement is no accuracy."),
    "gain_nats_per_answer": ("gain, nats per answer", "How much better than a uniform guess the "
    "student predicts the answers as they come in."),
    "loss": ("loss", "The loss on the answers, round by round."),
}  # fmt: skip


def utility_section(source: Source) -> Section:
    """Accuracy, classes, calibration, confusions, and how the student learned."""
    measured = source.measured("evaluation.json")
    parts: list[Part] = [*_released(source.facts)]
    if measured is not None:
        parts += _measured(measured)
    elif source.private is None and (shown := measured_sections(source.release)).keys() & UTILITY:
        parts += [part for title in UTILITY for part in card_parts(title, shown[title])]
    elif source.private is None:
        parts.append(Text("Accuracies that were measured on private data are not in this report.",
                          "missing"))  # fmt: skip
    else:
        parts.append(Text("Nothing was measured on private data yet: dpsd evaluate RUN does it.",
                          "missing"))  # fmt: skip
    parts += _learning(source.metrics(), measured or {})
    return Section("utility", "Utility", measured is not None, parts)


def _released(facts: dict[str, Any]) -> list[Part]:
    """Accuracies that were released with noise; the statement holds them."""
    told = [
        f"Accuracy on {a['rows']:,} {a['split']} rows: {percent(a['low'])} to {percent(a['high'])} "
        f"({100 * a['confidence']:g} % interval). It was released with noise of pure epsilon "
        f"{a['epsilon']:g} for one {a['unit']}."
        for a in facts.get("accuracy", [])
    ]
    return [Text(line) for line in told]


def _measured(e: dict[str, Any]) -> list[Part]:
    teacher, student = e["teacher"], e["student"]
    rows = [
        ("Measured on", f"{e['rows']:,} rows, split {e['split']}"),
        ("Student's accuracy", percent(student["accuracy"], missing="not measured")),
        ("Teacher's accuracy", percent(teacher["accuracy"], missing="not measured")),
        (f"Agreement with {e['agreement_with']}", percent(student["agreement"])),
    ]
    for name, model in (("Student", student), ("Teacher", teacher)):
        if model["ece"] is not None:
            rows.append((f"{name}'s calibration error", f"{model['ece']:.4f}"))
    if student.get("gain_nats_per_answer") is not None:
        rows.append(("Gain over a uniform guess", f"{student['gain_nats_per_answer']:.4f} nats"))
    parts: list[Part] = [Facts(rows)]
    drawings = [d for d in (_calibration(e), _confusion(e)) if d is not None]
    if drawings:
        parts += [Heading("Calibration and confusions"), Row(drawings)]
    else:
        parts.append(Text("No calibration diagram: dpsd evaluate RUN measures it, where there are "
                          "labelled rows.", "missing"))  # fmt: skip
    if e["per_class"]:
        parts += [Heading("By class"), *_classes(e["per_class"])]
    return parts


def _classes(classes: list[dict[str, Any]]) -> list[Part]:
    rows = [(str(c["class"]), f"{c['rows']:,}", percent(c["student"], 1), percent(c["teacher"], 1))
            for c in classes]  # fmt: skip
    table = Grid(Table(("class", "rows", "student", "teacher"), rows, title="Accuracy by class"))
    shown = [c for c in classes if c["student"] is not None and c["teacher"] is not None]
    if not shown or len(shown) > _MOST_CLASSES:
        return [table]
    worst = min(shown, key=lambda c: float(c["student"]))
    drawing = bars(
        [str(c["class"]) for c in shown],
        [(name, [c[name] for c in shown]) for name in ("student", "teacher")],
        x="accuracy",
        alt=f"Bars of the accuracy by class, of student and teacher. The student's lowest is "
        f"{percent(worst['student'], 1)}, on class {worst['class']}.",
        caption="Accuracy by class. Classes of few rows move much by chance.",
    )
    return [drawing, table]


def _calibration(e: dict[str, Any]) -> Drawing | None:
    found = e.get("reliability", {})
    lines = [
        Curve(name, [b["confidence"] for b in found[name]], [b["accuracy"] for b in found[name]],
              marks=True)
        for name in ("student", "teacher") if found.get(name)
    ]  # fmt: skip
    if not lines:
        return None
    error = e["student"]["ece"]
    return curves(
        lines, Axis("confidence", share, limits=(0, 1)), Axis("accuracy", share, limits=(0, 1.02)),
        diagonal="as sure as right",
        alt="Calibration diagram: accuracy over confidence in bins, of student and teacher. The "
        f"student's expected calibration error is {error:.4f}.",
        caption="Above the diagonal a model is right more often than it says; below it, less.",
    )  # fmt: skip


def _confusion(e: dict[str, Any]) -> Drawing | None:
    counts = e.get("confusion")
    if not counts:
        return None
    names = [str(c["class"]) for c in e["per_class"]]
    wrong = [(n, i, j) for i, row in enumerate(counts) for j, n in enumerate(row) if i != j and n]
    most = ", ".join(f"{names[i]} taken for {names[j]}: {n}"
                     for n, i, j in sorted(wrong, reverse=True)[:3])  # fmt: skip
    return heat(
        counts, names, x="class that the student names", y="true class",
        alt=f"Confusion matrix of the student. Most frequent confusions: {most or 'none'}.",
        caption=f"Rows of each true class by the class that the student names. "
        f"Most frequent: {most or 'none'}.",
    )  # fmt: skip


def _learning(metrics: list[dict[str, Any]], measured: dict[str, Any]) -> list[Part]:
    """Accuracy over answers, which is private, and how well the answers are predicted."""
    drawings = [] if (accuracy := _accuracy(measured)) is None else [accuracy]
    for key, (name, caption) in _OVER_ANSWERS.items():
        points = [(m["answers"], m[key]) for m in metrics if key in m]
        if len(points) > 1:
            x, y = [p[0] for p in points], [p[1] for p in points]
            scale = Axis(name, share, limits=(0, 1.02)) if "agreement" in key else Axis(name)
            drawings.append(curves(
                [Curve(name, x, y, marks=len(points) < 40)], Axis("answers asked", whole), scale,
                alt=f"Curve of the {name} over {len(points)} rounds: first {y[0]:.3g}, last "
                f"{y[-1]:.3g}.",
                caption=caption,
            ))  # fmt: skip
    if not drawings:
        return [Text("No curves over rounds: the run had one round.", "missing")]
    return [Heading("Learning, round by round"), Row(drawings[:2])]


def _accuracy(measured: dict[str, Any]) -> Drawing | None:
    """The accuracy of the students of some rounds, beside the released student and the teacher."""
    rounds = measured.get("over_rounds", [])
    if len(rounds) < 2 or not measured["rows"]:
        return None
    x, y = [r["answers"] for r in rounds], [r["accuracy"] for r in rounds]
    ends = [
        Curve(name, [x[0], x[-1]], [measured[who]["accuracy"]] * 2)
        for name, who in (("released student", "student"), ("teacher", "teacher"))
    ]
    return curves(
        [Curve("student of the round", x, y, marks=True), *ends],
        Axis("answers asked", whole), Axis("accuracy", share, limits=(0, 1.02)),
        alt=f"Curve of the student's accuracy over {len(rounds)} rounds: first "
        f"{percent(y[0], 1)}, last {percent(y[-1], 1)}; the released student has "
        f"{percent(measured['student']['accuracy'], 1)}.",
        caption=f"Accuracy on the {measured['rows']:,} rows of split {measured['split']}, measured "
        "after the run: while it goes on, the student meets no private row. The released student "
        "was trained afresh on all answers where the configuration asks for it.",
    )  # fmt: skip
