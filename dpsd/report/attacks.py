"""The section on attacks: what was tried against the run and what it found. It is private."""

from typing import Any

import numpy as np

from dpsd.attacks.audit.text import audit_table
from dpsd.attacks.extraction.text import agreement_table
from dpsd.attacks.inversion.report import BASELINES
from dpsd.attacks.inversion.scores import load_inversion_scores
from dpsd.attacks.inversion.text import ATTACK_NAMES, inversion_texts, target_name
from dpsd.attacks.membership.report import score_cells
from dpsd.attacks.membership.text import membership_table
from dpsd.attacks.statistics import Floats, Mask
from dpsd.attacks.store import SCORES, load_scores
from dpsd.console import percent, show_epsilon
from dpsd.report.card import ATTACKS, card_parts, measured_sections
from dpsd.report.parts import Drawing, Grid, Heading, Part, Picture, Row, Section, Strips, Text
from dpsd.report.pixels import strip
from dpsd.report.plots import Axis, Bound, Curve, bounds, curves, share
from dpsd.report.source import Source

KINDS = ("membership", "inversion", "audit", "extraction")
_NAMES = {
    "membership": "Membership inference", "inversion": "Reconstruction of classes",
    "audit": "Audit of epsilon", "extraction": "Extraction of the model",
}  # fmt: skip
_COMMANDS = {
    "membership": "dpsd attack membership RUN", "inversion": "dpsd attack inversion RUN",
    "audit": "dpsd audit RUN", "extraction": "dpsd attack extraction RUN",
}  # fmt: skip
_PANELS = 6
_POINTS = 120  # of a curve
_PLACES = 10


def attacks_section(source: Source) -> Section:
    """One part for each attack that was run."""
    if source.private is None:
        shown = measured_sections(source.release)
        if told := [title for title in ATTACKS if title in shown]:
            card: list[Part] = []
            for title in told:
                card += [Heading(title), *card_parts(title, shown[title])]
            return Section("attacks", "Attacks", False, card)
        text = "What attacks find is measured on private data, so that it is not in this report."
        return Section("attacks", "Attacks", False, [Text(text, "missing")])
    parts: list[Part] = [Text(
        "An attack that finds nothing proves nothing: a stronger one may find more. A proof gives "
        "the upper bound; it stands under Guarantee.", "note")]  # fmt: skip
    show = {"membership": _membership, "inversion": _inversion, "audit": _audit,
            "extraction": _extraction}  # fmt: skip
    found = False
    for kind in KINDS:
        report = source.measured("attacks", kind, "report.json")
        if report is None:
            parts.append(Text(f"{_NAMES[kind]}: not tried; {_COMMANDS[kind]} does it.", "missing"))
        else:
            found = True
            parts += [Heading(_NAMES[kind]), *show[kind](source, report)]
    return Section("attacks", "Attacks", found, parts)


def _scores(source: Source, kind: str) -> tuple[dict[str, Any], dict[str, Any]] | None:
    folder = source.folder("attacks", kind)
    if folder is None or not (folder / SCORES).is_file():
        return None
    return load_scores(folder)


_NO_SCORES = Text("The saved scores are missing, so that nothing is drawn.", "missing")


def _membership(source: Source, report: dict[str, Any]) -> list[Part]:
    control = report["control"]
    power = "the attack has power" if control["power"] else "the attack has NO POWER"
    parts: list[Part] = [
        Text(f"Was this record in the training data? Unit: one record. Budget {report['budget']}, "
             f"seed {report['seed']}. Positive control: AUC {control['auc']:.3f} on canaries of an "
             f"overfit teacher, {control['needed']} needed: {power}."),
    ]  # fmt: skip
    scores = _scores(source, "membership")
    parts.append(_NO_SCORES if scores is None else Row(_rocs(*scores)))
    table = membership_table(report)
    return [*parts, Grid(_titled(table, "Membership inference, by target, rows and attack"))]


def _rocs(arrays: dict[str, Any], facts: dict[str, Any]) -> list[Drawing]:
    """ROC curves on log axes: a drawing for each target and kind of rows, the run's own first."""
    panels: dict[str, list[Curve]] = {}
    areas: dict[str, list[str]] = {}
    least: dict[str, float] = {}
    for target, kind, name, scores, member in score_cells(arrays, facts):
        fpr, tpr = roc(scores, member)
        title = f"{target}, {kind} rows" if kind == "ordinary" else f"{target}, {kind}"
        floor = least.setdefault(title, 0.5 / max(1, len(member)))
        at = np.unique(np.searchsorted(fpr, np.geomspace(floor, 1, _POINTS)).clip(0, len(fpr) - 1))
        at = np.unique(np.concatenate([[0], at, [len(fpr) - 1]]))
        x, y = np.maximum(fpr[at], floor).tolist(), np.maximum(tpr[at], floor).tolist()
        panels.setdefault(title, []).append(Curve(name, x, y, steps=True))
        areas.setdefault(title, []).append(f"{name} {float(np.trapezoid(tpr, fpr)):.3f}")
    first = sorted(panels, key=lambda title: not title.startswith("run "))  # stable
    return [
        curves(
            panels[title], Axis("false-positive rate", share, log=True, limits=(least[title], 1)),
            Axis("true-positive rate", share, log=True, limits=(least[title], 1.1)),
            diagonal="guessing",
            alt=f"ROC curves on log axes for {title}. Area under the curve: "
            f"{', '.join(areas[title])}.",
            caption=f"{_capital(title)}. AUC: {', '.join(areas[title])}.",
        )
        for title in first[:_PANELS]
    ]  # fmt: skip


def roc(scores: Floats, member: Mask) -> tuple[Floats, Floats]:
    """False- and true-positive rates of all thresholds, from none to all rows: float64 [T] each.

    Args:
        scores: float64 [N], higher for members. Equal scores share a threshold.
        member: bool [N], with members and others among them.
    """
    order = np.argsort(-scores, kind="stable")
    falling, inside = scores[order], member[order]
    last = np.flatnonzero(np.r_[falling[1:] != falling[:-1], True])
    hits, asked = np.cumsum(inside)[last], last + 1
    alarms = asked - hits
    return np.r_[0.0, alarms / alarms[-1]], np.r_[0.0, hits / hits[-1]]


def _inversion(source: Source, report: dict[str, Any]) -> list[Part]:
    best, student = report["headline_attack"], report["headline"]["student"]
    low, high = student["interval"]
    parts: list[Part] = [
        Text(f"Can images of a private class be searched for in the model? Two judges, budget "
             f"{report['budget_name']}. Verdict on the student: {student['verdict']}; "
             f"{ATTACK_NAMES[best]} gains {student['value']:+.2f} [{low:+.2f}, {high:+.2f}] over "
             "the best baseline. This is about classes, not about records."),
    ]  # fmt: skip
    folder = source.folder("attacks", "inversion")
    if folder is None or not (folder / SCORES).is_file():
        parts.append(_NO_SCORES)
    else:
        scores = load_inversion_scores(folder)
        names = [str(name) for name in scores.facts["classes"]][:_PLACES]
        own = [name for name in scores.facts["targets"] if name not in BASELINES]
        rows = [Picture(strip(scores.real, len(names)), f"Private images of {', '.join(names)}",
                        "Private images")]  # fmt: skip
        for name in (*own, *BASELINES):
            cell = scores.cells[best, name]
            at = [int(np.flatnonzero(cell.labels == c)[0]) for c in range(len(names))]
            told = target_name(name)
            pixels = strip(cell.images[at], len(names))
            rows.append(Picture(pixels, f"Reconstructions from: {told}", _capital(told)))
        parts.append(Strips(rows, f"{ATTACK_NAMES[best]}: reconstructions of {', '.join(names)}, "
                                  "the first of the first seed, none picked; at the end the "
                                  "baselines, which know nothing private."))  # fmt: skip
    tables = [Grid(_titled(t, f"Reconstruction: {t.title}")) for t in inversion_texts(report)]
    return [*parts, *tables, *(Text(f"{_capital(n)}.", "note") for n in report["notes"])]


def _audit(source: Source, report: dict[str, Any]) -> list[Part]:
    levels = report["levels"]
    found = [("mechanism", b) for b in levels.get("mechanism", [])]
    found += [(f"pair {i + 1}", p["bound"])
              for i, p in enumerate(levels.get("transcript", {}).get("pairs", []))]  # fmt: skip
    one_run = levels.get("one_run", {}).get("bounds", [])
    found += [(f"one run, {_whose(b)}", b) for b in one_run]
    parts: list[Part] = [
        Text(f"How much epsilon do attacks show at least? Verdict: {report['verdict']}. Budget "
             f"{report['budget']}, seed {report['seed']}, delta {report['claim']['delta']:g}. A "
             "bound below the claim proves nothing; one above it refutes the claim, "
             "and does so wrongly in at most one audit of 20."),
    ]  # fmt: skip
    drawings = [_bounds(found, quantity, unit) for quantity, unit in _kinds(found)]
    parts += [Row(drawings)] if drawings else []
    parts += [Grid(_titled(audit_table(report), "Lower bounds beside ceiling and claim"))]
    parts += [Text(f"{level}: skipped: {why}.", "missing")
              for level, why in report["skipped"].items()]  # fmt: skip
    return parts


def _kinds(found: list[tuple[str, dict[str, Any]]]) -> list[tuple[str, str]]:
    return list(dict.fromkeys((str(b["quantity"]), str(b["unit"])) for _, b in found))


def _bounds(found: list[tuple[str, dict[str, Any]]], quantity: str, unit: str) -> Drawing:
    mine = [(level, b) for level, b in found if (b["quantity"], b["unit"]) == (quantity, unit)]
    told = "; ".join(
        f"{name} at least {b['value']:.5g}, ceiling {b['ceiling']:.3g}, "
        + (f"claimed {show_epsilon(b['claimed'])}" if b["claimed"] is not None else "no claim")
        for name, b in mine
    )
    most = max(b["ceiling"] for _, b in mine)
    lines = [
        # A claim far beyond every ceiling is in the words alone: it would flatten the drawing.
        Bound(name, b["value"], b["ceiling"],
              b["claimed"] if b["claimed"] is not None and b["claimed"] <= 3 * most else None)
        for name, b in mine
    ]  # fmt: skip
    return bounds(
        lines, x=f"{quantity} per {unit}",
        alt=f"Lower bounds on {quantity} per {unit}: {told}.",
        caption=f"{quantity} per {unit}: {told}.",
    )  # fmt: skip


def _whose(bound: dict[str, Any]) -> str:
    """Whose canaries a bound of the one run is about: its method names them."""
    return "student" if "student" in str(bound["method"]) else "teacher"


def _extraction(source: Source, report: dict[str, Any]) -> list[Part]:
    measured = f"{report['rows']:,} rows" if report["labelled"] else "synthetic images"
    parts: list[Part] = [
        Text(f"How many questions buy a copy of the model? Budget {report['budget']}: clones "
             f"{report['model']}, pool: {report['pool']}; measured on {measured}. Agreement is no "
             "measure of privacy: the guarantee holds for copies of the student too."),
    ]  # fmt: skip
    drawings = [d for t in report["targets"] for d in _curves(report, t)][:_PANELS]
    parts += [Row(drawings)] if drawings else []
    for target in report["targets"]:
        table = agreement_table(report, target)
        if table.rows:
            parts.append(Grid(_titled(table, f"Extraction: {table.title}")))
    refused = sorted({c["refused"] for c in report["cells"] if c["refused"]})
    return [*parts, *(Text(f"{_capital(why)}.", "missing") for why in refused)]


def _curves(report: dict[str, Any], target: str) -> list[Drawing]:
    """Agreement over questions, without a defence and with each; best attacks first."""
    drawings = []
    for defence in report["defences"]:
        cells = [c for c in report["cells"]
                 if c["target"] == target and c["defence"] == defence and c["curve"]]  # fmt: skip
        cells = [c for c in cells if c["seed"] == min(x["seed"] for x in cells)]
        cells.sort(key=lambda c: -float(c["curve"][-1]["agreement"]))
        found = [
            Curve(c["attack"], [p["asked"] for p in c["curve"]],
                  [p["agreement"] for p in c["curve"]], marks=True)
            for c in cells[:_PANELS]
        ]  # fmt: skip
        if not found:
            continue
        best = f"{found[0].name} agrees on {percent(found[0].y[-1], 1)} after {found[0].x[-1]:,.0f}"
        title = f"{target}, " + ("no defence" if defence == "none" else f"defence {defence}")
        more = "" if len(cells) <= _PANELS else f" The best {_PANELS} of {len(cells)} attacks."
        drawings.append(curves(
            found, Axis("images asked", log=True), Axis("agreement", share, limits=(0, 1.02)),
            alt=f"Curves of agreement over images asked, {title}: {best}.",
            caption=f"{_capital(title)}: {best} images.{more}",
        ))  # fmt: skip
    return drawings


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _titled(table: Any, title: str) -> Any:
    from dataclasses import replace

    columns = tuple(name or "model" for name in table.columns)
    return replace(table, title=title, columns=columns)


def student_findings(source: Source) -> list[tuple[str, str]]:
    """What each attack that was run says of the student: kind and verdict.

    Verdicts are `leaks`, `violated`, `no leak shown`, `consistent`, `no power`, `no claim`,
    `nothing claimed`.
    """
    found = []
    if (m := source.measured("attacks", "membership", "report.json")) is not None:
        verdicts = {c["verdict"] for c in m["cells"] if c["target"].endswith(" student")
                    and not c["target"].startswith("clone")}  # fmt: skip
        order = ("leaks", "no leak shown", "no claim", "no power")
        found.append(("membership", next((v for v in order if v in verdicts), "no power")))
    if (i := source.measured("attacks", "inversion", "report.json")) is not None:
        verdicts = {a["targets"]["student"]["verdict"] for a in i["attacks"].values()}
        order = ("leaks", "no leak shown", "no claim", "no power")
        found.append(("inversion", next((v for v in order if v in verdicts), "no power")))
    if (a := source.measured("attacks", "audit", "report.json")) is not None:
        found.append(("audit", str(a["verdict"])))
    return found
