"""An inversion report in words: tables for the terminal, a section for the card."""

from typing import Any

from dpsd.attacks.inversion.report import NO_CLAIM, NO_POWER
from dpsd.attacks.inversion.targets import guarantee_line
from dpsd.console import percent
from dpsd.tables import Table

ATTACK_NAMES = {
    "total_variation": "total variation", "gmi": "GMI", "kedmi": "KED-MI", "lomma": "LOMMA",
    "released": "released synthesizer",
}  # fmt: skip
_TARGET_NAMES = {
    "noise_free": "noise-free student", "control": "control, no defence",
    "draws": "baseline: prior alone", "untrained": "baseline: untrained",
    "permuted": "baseline: permuted labels",
}  # fmt: skip
_JUDGES = ("network", "neighbours", "both")


def target_name(target: str) -> str:
    """What people call a target of the report."""
    return _TARGET_NAMES.get(target, target)


def inversion_text(report: dict[str, Any]) -> str:
    """The figures of `inversion_report` for a terminal."""
    j, b = report["judges"], report["budget"]
    network, neighbours, both = (percent(j[judge], 1) for judge in _JUDGES)
    lines = [
        f"inversion on profile {report['profile']}, budget {report['budget_name']}: "
        f"{b['seeds']} seeds, {report['images_per_target']} images a target, {b['steps']} steps, "
        f"{b['draws']} draws each",
        f"student: {guarantee_line(report['guarantee'])}",
        f"judges on real private images ({j['measured_on']}): J1 network {network}, "
        f"J2 neighbours {neighbours}, both {both}; chance {percent(report['chance'], 1)}",
    ]
    for table in inversion_texts(report):
        lines += ["", table.text()]
    return "\n".join([*lines, "", _summary(report), *(f"note: {n}" for n in report["notes"])])


def inversion_texts(report: dict[str, Any]) -> list[Table]:
    """A table for each attack: every target, then the baselines."""
    columns = ("", "J1", "J2", "both", "advantage [95 %]", "knows", "gap p", "verdict")
    return [
        Table(columns, _rows(attack), align="lrrrrrrl", title=_title(name, attack["cost"]))
        for name, attack in report["attacks"].items()
    ]


def inversion_card(report: dict[str, Any]) -> str:
    """Markdown for the model card, where the user declared the data public."""
    columns = ("attack", "model", "both judges agree",
               "advantage over the best baseline (95 %)", "verdict")  # fmt: skip
    rows = [
        (ATTACK_NAMES[name], target_name(target), f"{row['rates']['both']['rate']:.2f}",
         _advantage(row["advantage"]["both"]), row["verdict"])
        for name, attack in report["attacks"].items()
        for target, row in attack["targets"].items()
    ]  # fmt: skip
    return (
        "## Inversion attacks\n\nWhite-box attacks that search for images of the private classes, "
        f"judged by two classifiers; {report['budget']['seeds']} seeds, budget "
        f"{report['budget_name']}, the same for every model. {_summary(report)} The advantage is "
        "about classes, not records.\n\n" + Table(columns, rows, align="llrrl").markdown()
    )


def _title(name: str, cost: dict[str, Any]) -> str:
    cached = ", prior from the cache" if cost["prior_from_cache"] else ""
    return f"{ATTACK_NAMES[name]} ({cost['prior_seconds'] + cost['search_seconds']:.0f} s{cached})"


def _rows(attack: dict[str, Any]) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    for target, row in (attack["targets"] | attack["floors"]).items():
        shares = [f"{row.get('rates', row)[judge]['rate']:.2f}" for judge in _JUDGES]
        gap = f"{row['memorisation']['p_value']:.3f}"
        if target in attack["floors"]:
            rows.append((target_name(target), *shares, "", "", gap, ""))
        else:
            knows = f"{row['knowledge']['accuracy']:.2f}"
            advantage = _advantage(row["advantage"]["both"])
            rows.append((target_name(target), *shares, advantage, knows, gap, row["verdict"]))
    return rows


def _advantage(advantage: dict[str, Any]) -> str:
    low, high = advantage["interval"]
    return f"{advantage['value']:+.2f} [{low:+.2f}, {high:+.2f}]"


def _summary(report: dict[str, Any]) -> str:
    student = report["headline"]["student"]
    if student["verdict"] == NO_POWER:
        return "Verdict: no power. The attacks do not succeed on the teacher either."
    if student["verdict"] == NO_CLAIM:
        return "Verdict: no claim. The student's accuracy is below twice that of guessing."
    return (
        f"Verdict on the student: {student['verdict']}, advantage {_advantage(student)} by "
        f"{ATTACK_NAMES[report['headline_attack']]}, the attack that is surest on the teacher."
        + _strongest(report)
    )


def _strongest(report: dict[str, Any]) -> str:
    """Of the attacks with power the one that finds most in the student, if not the headline's."""
    advantages = {name: attack["targets"]["student"]["advantage"]["both"]
                  for name, attack in report["attacks"].items() if attack["power"]}  # fmt: skip
    name = max(advantages, key=lambda name: float(advantages[name]["value"]))
    if name == report["headline_attack"]:
        return ""
    return f" {ATTACK_NAMES[name]} finds most: {_advantage(advantages[name])}."
