"""A membership report in words: a table for the terminal, a section for the card."""

from typing import Any

from dpsd.console import percent
from dpsd.tables import Table


def membership_text(report: dict[str, Any]) -> str:
    """The figures of `membership_report` for a terminal."""
    control, spend = report["control"], report["spend"]
    lines = [
        f"membership, unit record, budget {report['budget']}, seed {report['seed']}: profile "
        f"teachers trained on {report['trained_on']:,} rows, {spend['shadows']} shadows, "
        f"RMIA with {spend['references']}",
        f"positive control: AUC {control['auc']:.3f} on the teacher's canaries, "
        f"{control['needed']} needed: {'power' if control['power'] else 'NO POWER'}",
        "",
        membership_table(report).text(),
    ]
    for cell in report["cells"]:
        if cell["placebo"] is not None:
            area, low, high = cell["placebo"]
            placebo = f"placebo {area:.3f} ({low:.3f} to {high:.3f})"
            lines.append(f"{cell['target']}, {cell['attack']}: {placebo}")
    for name, target in report["targets"].items():
        lines.append(
            f"{name}: accuracy {percent(target['accuracy'], 1)} on non-members, "
            f"{percent(target['accuracy_on_members'], 1)} on members"
        )
    lines += [f"{name}: skipped: {why}" for name, why in report["skipped"].items()]
    return "\n".join([*lines, *_answers(report)])


def membership_table(report: dict[str, Any]) -> Table:
    """A row for each target, kind of rows and attack."""
    rate = f"TPR at {100 * report['fpr']:g} % FPR"
    columns = ("target", "rows", "attack", "AUC", "95 %", rate, "verdict")
    rows = []
    for cell in report["cells"]:
        low, high = cell["auc_interval"]
        rate = _rate_text(cell["tpr_at"][f"{report['fpr']:g}"])
        rows.append(
            (cell["target"], cell["rows"], cell["attack"], f"{cell['auc']:.3f}",
             f"{low:.3f} to {high:.3f}", rate, cell["verdict"])
        )  # fmt: skip
    return Table(columns, rows, align="lllrrrl")


def membership_card(report: dict[str, Any]) -> str:
    """Markdown for the card of a run whose data are public."""
    control = report["control"]
    lines = [
        "## Membership inference",
        "",
        f"Unit: one record. Budget {report['budget']}, seed {report['seed']}, "
        f"{report['spend']['shadows']} shadow teachers. Positive control: AUC "
        f"{control['auc']:.3f} on the canaries of an overfit teacher, {control['needed']} needed.",
        "",
        membership_table(report).markdown(),
        "",
        *_answers(report),
    ]
    return "\n".join(lines).rstrip()


def _answers(report: dict[str, Any]) -> list[str]:
    """How many answers students and copies learned from; the run's student may have had more."""
    n, asked = report["student_answers"], report.get("clone_questions")
    lines = [] if n is None else [f"profile student and its shadows: {n:,} answers each"]
    if asked is not None:
        lines.append(f"clones: {asked:,} questions each, none about a row of the game")
    return lines


def _rate_text(rate: dict[str, Any]) -> str:
    if "needed" in rate:
        return f"needs {rate['needed']:,} non-members"
    low, high = (100 * x for x in rate["interval"])
    return f"{percent(rate['tpr'], 1)} ({low:.1f} to {high:.1f}), p {rate['p_value']:.2g}"
