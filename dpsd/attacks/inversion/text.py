"""An inversion report for people: a table for the terminal, a section for the card, pictures."""

from pathlib import Path
from typing import Any

import numpy as np

from dpsd.attacks.inversion.report import FLOORS, NO_CLAIM, NO_POWER
from dpsd.attacks.inversion.scores import InversionScores, load_inversion_scores
from dpsd.attacks.inversion.targets import guarantee_line
from dpsd.figures import new_figure, save_figure

_NAMES = {
    "teacher": "teacher", "student": "student", "noise_free": "noise-free student",
    "control": "control, no defence", "draws": "floor: prior alone",
    "untrained": "floor: untrained", "permuted": "floor: permuted labels",
    "total_variation": "total variation",
    "gmi": "GMI", "kedmi": "KED-MI", "lomma": "LOMMA", "released": "released synthesizer",
}  # fmt: skip
_MOST_CLASSES = 10


def _name(target: str) -> str:
    return _NAMES.get(target, target)


def inversion_table(report: dict[str, Any]) -> str:
    """The figures of `dpsd.attacks.inversion.report.report` as plain text."""
    j, b = report["judges"], report["budget"]
    width = max(24, *(len(_name(target)) + 1 for target in report["targets"]))
    lines = [
        f"inversion on profile {report['profile']}, budget {report['budget_name']}: "
        f"{b['seeds']} seeds, {report['images_per_target']} images a target, {b['steps']} steps, "
        f"{b['draws']} draws each",
        f"student: {guarantee_line(report['guarantee'])}",
        f"judges on real private images ({j['measured_on']}): J1 network {j['network']:.1%}, "
        f"J2 neighbours {j['neighbours']:.1%}, both {j['both']:.1%}; chance {report['chance']:.1%}",
    ]
    for name, a in report["attacks"].items():
        cost = a["cost"]["prior_seconds"] + a["cost"]["search_seconds"]
        cached = ", prior from the cache" if a["cost"]["prior_from_cache"] else ""
        lines += [
            "",
            f"{_NAMES[name]} ({cost:.0f} s{cached})",
            f"{'':<{width}}{'J1':>7}{'J2':>7}{'both':>7}{'advantage [95 %]':>26}{'knows':>8}"
            f"{'gap p':>8}  verdict",
        ]
        for target, row in a["targets"].items():
            r = row["rates"]
            lines.append(
                f"{_name(target):<{width}}{r['network']['rate']:>7.2f}"
                f"{r['neighbours']['rate']:>7.2f}{r['both']['rate']:>7.2f}{_advantage(row):>26}"
                f"{row['knowledge']['accuracy']:>8.2f}{row['memorisation']['p_value']:>8.3f}"
                f"  {row['verdict']}"
            )
        for target, r in a["floors"].items():
            lines.append(
                f"{_name(target):<24}{r['network']['rate']:>7.2f}{r['neighbours']['rate']:>7.2f}"
                f"{r['both']['rate']:>7.2f}{'':>34}{r['memorisation']['p_value']:>8.3f}"
            )
    lines += ["", _summary(report), *(f"note: {n}" for n in report["notes"])]
    return "\n".join(lines)


def card_section(report: dict[str, Any]) -> str:
    """Markdown for the model card, where the user declared the data public."""
    rows = [
        "| attack | model | both judges agree | advantage over the best floor (95 %) | verdict |",
        "|---|---|---|---|---|",
    ]
    for name, a in report["attacks"].items():
        for target, row in a["targets"].items():
            rows.append(
                f"| {_NAMES[name]} | {_name(target)} | {row['rates']['both']['rate']:.2f} | "
                f"{_advantage(row)} | {row['verdict']} |"
            )
    return (
        "## Inversion attacks\n\nWhite-box attacks that search for images of the private classes, "
        f"judged by two classifiers; {report['budget']['seeds']} seeds, budget "
        f"{report['budget_name']}, the same for every model. {_summary(report)} The advantage is "
        "about classes, not records.\n\n" + "\n".join(rows)
    )


def write_pictures(folder: Path) -> None:
    """One sheet of reconstructions for each attack and one of memorisation gaps, from the scores.

    Columns are classes; each image is the first of the first seed, none is picked.
    """
    scores = load_inversion_scores(folder)
    for attack in scores.facts["budget"]["attacks"]:
        _sheet(scores, attack, folder / f"reconstructions-{attack}.png")
    _gaps(scores, folder / "memorisation.png")


def _advantage(row: dict[str, Any]) -> str:
    found = row["advantage"]["both"]
    low, high = found["interval"]
    return f"{found['value']:+.2f} [{low:+.2f}, {high:+.2f}]"


def _models(scores: InversionScores) -> list[str]:
    """The attacked models that are no floors, in their order."""
    return [name for name in scores.facts["targets"] if name not in FLOORS]


def _sheet(scores: InversionScores, attack: str, path: Path) -> None:
    classes = scores.facts["classes"][:_MOST_CLASSES]
    rows = [("private image", scores.real)]
    for name in (*_models(scores), *FLOORS):
        cell = scores.cells[attack, name]
        first = [int(np.flatnonzero(cell.labels == c)[0]) for c in range(len(classes))]
        rows.append((_name(name), cell.images[first]))
    height, width = scores.real.shape[2:]
    figure = new_figure(2.2 + len(classes) * width / height, len(rows) + 0.5)
    panels = figure.subplots(len(rows), len(classes), squeeze=False)
    for line, (name, images) in zip(panels, rows, strict=True):
        for c, axes in enumerate(line):
            shown = np.moveaxis(images[c], 0, -1)
            axes.imshow(shown[:, :, 0] if shown.shape[2] != 3 else shown, cmap="gray")
            axes.set(xticks=[], yticks=[])
            if c == 0:
                axes.set_ylabel(name, rotation=0, ha="right", va="center", fontsize=8)
            if line is panels[0]:
                axes.set_title(classes[c], fontsize=8)
    figure.suptitle(f"{_NAMES[attack]}: what each model gives away", fontsize=9)
    save_figure(figure, path, dpi=100)


def _gaps(scores: InversionScores, path: Path) -> None:
    attacks = scores.facts["budget"]["attacks"]
    figure = new_figure(4 * len(attacks), 3)
    for axes, attack in zip(
        figure.subplots(1, len(attacks), squeeze=False)[0], attacks, strict=True
    ):
        for name in _models(scores):
            d = scores.cells[attack, name].distances
            size = d.shape[1] // 2
            axes.hist(d[:, :size].min(1) - d[:, size:].min(1), bins=20, histtype="step",
                      label=_name(name))  # fmt: skip
        axes.axvline(0, color="black", linewidth=0.5)
        axes.set(title=_NAMES[attack], xlabel="nearest training - nearest held-out")
        axes.legend(fontsize=6)
    save_figure(figure, path, dpi=100)


def _summary(report: dict[str, Any]) -> str:
    found = report["headline"]["student"]
    low, high = found["interval"]
    best = _NAMES[report["headline_attack"]]
    if found["verdict"] == NO_POWER:
        return "Verdict: no power. The attacks do not succeed on the teacher either."
    if found["verdict"] == NO_CLAIM:
        return "Verdict: no claim. The student is below twice chance accuracy."
    return (
        f"Verdict on the student: {found['verdict']}, advantage {found['value']:+.2f} "
        f"[{low:+.2f}, {high:+.2f}] by {best}, the attack that is surest on the teacher."
        + _worst(report)
    )


def _worst(report: dict[str, Any]) -> str:
    """Of the attacks with power the one that finds most in the student, if not the headline's."""
    found = {name: a["targets"]["student"]["advantage"]["both"]
             for name, a in report["attacks"].items() if a["power"]}  # fmt: skip
    worst = max(found, key=lambda name: float(found[name]["value"]))
    if worst == report["headline_attack"]:
        return ""
    low, high = found[worst]["interval"]
    value = f"{found[worst]['value']:+.2f} [{low:+.2f}, {high:+.2f}]"
    return f" Most is found by {_NAMES[worst]}: {value}."
