"""An audit's report in words: lines for the terminal, a section for the card."""

from typing import Any

from dpsd.attacks.audit.bounds import ALPHA, Bound
from dpsd.console import percent, show_epsilon
from dpsd.tables import Table, facts_table


def audit_text(report: dict[str, Any]) -> str:
    """The report for a terminal."""
    levels = report["levels"]
    rows = [("mechanism", _line(bound)) for bound in levels.get("mechanism", [])]
    for pair in levels.get("transcript", {}).get("pairs", []):
        text = (
            f"{_line(pair['bound'])}; row {pair['row']} ({pair['kind']}): "
            f"{pair['differing']:,} of {pair['answers']:,} answers differ, the pair's exact eps is "
            f"{show_epsilon(pair['exact_epsilon'])} per record"
        )
        rows.append(("transcript", text))
    if "transcript" in levels:
        rows.append(("transcript", levels["transcript"]["text"]))
    rows += [("one run", _line(bound)) for bound in levels.get("one_run", {}).get("bounds", [])]
    rows += [(level, f"skipped: {reason}") for level, reason in report["skipped"].items()]
    lines = [f"audit, budget {report['budget']}, seed {report['seed']}", ""]
    lines.append(facts_table(rows).text())
    if report["claim"]["seeded_noise"]:
        lines.append("the run's noise was seeded, so it is NOT PRIVATE whatever the bounds say")
    return "\n".join([*lines, "", f"verdict: {_verdicts(report)}"])


def audit_table(report: dict[str, Any]) -> Table:
    """Every bound beside its ceiling and the claim."""
    levels = report["levels"]
    bounds = [("mechanism", b) for b in levels.get("mechanism", [])]
    bounds += [("transcript", p["bound"]) for p in levels.get("transcript", {}).get("pairs", [])]
    bounds += [("one run", b) for b in levels.get("one_run", {}).get("bounds", [])]
    rows = [
        (f"{level}, {b['method']}", f"{b['quantity']} per {b['unit']}", f"{b['value']:.4g}",
         f"{b['ceiling']:.4g}", _claimed(b), b["verdict"])
        for level, b in bounds
    ]  # fmt: skip
    columns = ("level", "unit", "at least", "ceiling", "claimed", "verdict")
    return Table(columns, rows, align="llrrrl")


def audit_card(report: dict[str, Any]) -> str:
    """Markdown for the card of a run whose data are public."""
    return (
        f"## Audit\n\nLower bounds at {percent(1 - ALPHA, 0)} confidence, all together "
        f"where a claim is tested; delta {report['claim']['delta']:g}, budget {report['budget']}, "
        f"seed {report['seed']}; a bound "
        "below the claim proves nothing. The ceiling is what a perfect attack could show.\n\n"
        f"{audit_table(report).markdown()}\n\nVerdict: {_verdicts(report)}."
    )


def _claimed(bound: dict[str, Any]) -> str:
    if bound["claimed"] is None and not bound["claimed_infinite"]:
        return "nothing"
    return show_epsilon(bound["claimed"])


def _verdicts(report: dict[str, Any]) -> str:
    """The verdict, and where there are two claims the verdict on each."""
    verdicts = report["verdicts"]
    each = ", ".join(f"{claim} {verdict}" for claim, verdict in verdicts.items())
    return f"{report['verdict']} ({each})" if len(verdicts) > 1 else str(report["verdict"])


def _line(bound: dict[str, Any]) -> str:
    fields = {k: v for k, v in bound.items() if k in Bound.__dataclass_fields__}
    if bound["claimed_infinite"]:
        fields["claimed"] = float("inf")
    return Bound(**fields).text()
