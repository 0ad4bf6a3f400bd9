"""The section on accuracy over the rounds, its table and its picture."""

from pathlib import Path

from dpsd.figures import new_figure, save_figure
from render_tables.common import table

SHOWN = (0.1, 0.25, 0.5, 0.75, 1.0)
"""Shares of the rounds that the table shows."""


def curve(curves: list[dict], titles: dict[str, str]) -> list[str]:
    """The section; nothing where no curve was measured."""
    if not curves:
        return []
    return [
        "## Accuracy over the rounds",
        "",
        f"Holdout rows ({curves[0]['rows']:,}), one seed, measured by the benchmark on the private "
        "side",
        "after each round; the released student is the one refitted to all answers (the dot).",
        "",
        "![accuracy over rounds](pictures/curve.png)",
        "",
        *table(
            ("data, mechanism, eps per answer", *(f"{p:.0%} of rounds" for p in SHOWN), "released",
             "teacher"),
            [[titles[c["cell"]], *(f"{100 * v:.2f}" for v in _points(c))] for c in curves],
        ),
        "",
    ]  # fmt: skip


def draw_curve(curves: list[dict], titles: dict[str, str], path: Path) -> None:
    """Write the picture of accuracy over rounds."""
    figure = new_figure(8, 4.5)
    axes = figure.subplots()
    for i, result in enumerate(curves):
        values, last = result["student_accuracy"], len(result["student_accuracy"])
        rounds = [100 * (r + 1) / last for r in range(last)]
        label = f"{titles[result['cell']]}, {result['answers'][-1]:,} answers"
        axes.plot(rounds, [100 * v for v in values], color=f"C{i}", label=label)
        axes.plot(100, 100 * _released(result), "o", color=f"C{i}")
        axes.axhline(100 * result["teacher_accuracy"], color=f"C{i}", ls=":", lw=0.8)
    axes.set(xlabel="rounds, percent of all", ylabel="accuracy on the holdout rows, percent",
             title="Student (dotted: its teacher); eps is per answer")  # fmt: skip
    axes.legend(fontsize="small")
    axes.grid(alpha=0.3)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_figure(figure, path, dpi=100)


def _points(result: dict) -> list[float]:
    values = result["student_accuracy"]
    points = [values[max(0, round(p * len(values)) - 1)] for p in SHOWN]
    return [*points, _released(result), result["teacher_accuracy"]]


def _released(result: dict) -> float:
    """Accuracy of the student that the run released."""
    return (result["refit_accuracy"] or result["student_accuracy"])[-1]
