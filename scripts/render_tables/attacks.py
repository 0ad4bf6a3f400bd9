"""docs/attacks.md, from docs/results/attacks/."""

import json
from collections.abc import Iterator

from bench_tables.attacks import ATTACKS

from render_tables.common import table

HEAD = """\
# Attacks and audits, measured

Made by `scripts/render_results` from `docs/results/attacks/`, which `scripts/bench audit`,
`self-test` and `membership` measure; do not edit. How to read it: [audit.md](audit.md).
"""


def page() -> str:
    """The text of docs/attacks.md."""
    lines = [
        HEAD,
    ]
    for report in _load("self"):
        lines += ["## The auditor's self-test", "", *_self_test(report), ""]
    lines += ["## Lower bounds on epsilon", ""]
    for report in _load("audit"):
        lines += [f"{_heading(report)}", "", *_audit(report), ""]
    lines += ["## Membership (unit: one record)", ""]
    for report in _load("membership"):
        control, spend = report["control"], report["spend"]
        lines += [
            f"{_heading(report)}; {spend['shadows']} shadow teachers for "
            f"LiRA, {spend['references']} for RMIA; positive control: AUC "
            f"{control['auc']:.3f} ({'power' if control['power'] else 'no power'})",
            "", *_membership(report), "", *_targets(report), "",
        ]  # fmt: skip
    return "\n".join(lines).rstrip() + "\n"


def _load(prefix: str) -> list[dict]:
    return [json.loads(p.read_text()) for p in sorted(ATTACKS.glob(f"{prefix}-*.json"))]


def _heading(report: dict) -> str:
    return (f"**{report['title']}**; budget {report['budget']}, seed {report['seed']}, "
            f"{report['wall_seconds']:.0f} s")  # fmt: skip


def _self_test(report: dict) -> list[str]:
    return table(
        ("mechanism", "unit", "claimed", "median bound", "must be", "wrong calls", "at most"),
        [[o["name"], o["unit"], f"{o['quantity']} {o['claimed']:.3g}", f"{o['median_bound']:.3g}",
          "violated" if o["broken"] else "not violated", f"{o['wrong']} of {o['audits']}",
          str(o["allowed"])] for o in report["outcomes"]],
    )  # fmt: skip


def _audit(report: dict) -> list[str]:
    columns = ("level", "unit", "at least", "ceiling", "claimed", "verdict")
    return table(columns, [_bound(level, b) for level, b in _bounds(report["levels"])])


def _bounds(levels: dict) -> Iterator[tuple[str, dict]]:
    """The level of each bound, and the bound."""
    for bound in levels.get("mechanism", []):
        yield "mechanism", bound
    for p in levels.get("transcript", {}).get("pairs", []):
        exact = p["exact_epsilon"]
        shown = "infinite" if exact is None else f"{exact:,.{0 if exact >= 100 else 2}f}"
        yield (f"transcript, {p['kind']}: {p['differing']:,} of {p['answers']:,} answers differ, "
               f"the pair's exact eps {shown}"), p["bound"]  # fmt: skip
    for bound in levels.get("one_run", {}).get("bounds", []):
        yield bound["method"], bound


def _bound(level: str, b: dict) -> list[str]:
    claimed = "infinite" if b["claimed_infinite"] else b["claimed"]
    claimed = "nothing" if claimed is None else claimed
    return [
        f"{level} ({b['quantity']}, {100 * b['confidence']:.3g} %)", b["unit"],
        f"{b['value']:.3f}", f"{b['ceiling']:.3f}",
        claimed if isinstance(claimed, str) else f"{claimed:.4g}", b["verdict"],
    ]  # fmt: skip


def _membership(report: dict) -> list[str]:
    return table(
        ("target", "rows", "attack", "members / non-members", "AUC (95 %)",
         "TPR at 1 % FPR (95 %)", "verdict"),
        [_membership_row(cell) for cell in report["cells"]],
    )  # fmt: skip


def _membership_row(c: dict) -> list[str]:
    low, high = c["auc_interval"]
    return [
        c["target"], c["rows"], c["attack"], f"{c['members']} / {c['non_members']}",
        f"{c['auc']:.3f} ({low:.3f} to {high:.3f})", _tpr(c["tpr_at"]["0.01"]), _verdict(c),
    ]  # fmt: skip


def _tpr(t: dict) -> str:
    if "needed" in t:
        return f"needs {t['needed']:,} non-members"
    low, high = t["interval"]
    p_value = f", p {t['p_value']:.2g}" if "p_value" in t else ""
    return f"{100 * t['tpr']:.1f} % ({100 * low:.1f} to {100 * high:.1f}){p_value}"


def _verdict(c: dict) -> str:
    """The verdict; for the run's own models, with the placebo beside it."""
    if not c["target"].startswith("run"):
        return c["verdict"]
    placebo = c.get("placebo")
    if placebo is None:
        return "no verdict: no placebo was measured"
    value, low, high = placebo
    return f"{c['verdict']}; placebo {value:.3f} ({low:.3f} to {high:.3f})"


def _targets(report: dict) -> list[str]:
    answers = report.get("student_answers")
    source = "" if answers is None else f", from {answers:,} answers"
    return [
        f"- {name}: accuracy {100 * t['accuracy']:.1f} % on non-members, "
        f"{100 * t['accuracy_on_members']:.1f} % on members"
        + (source if name == "profile student" else "")
        for name, t in report["targets"].items()
    ]
