"""What the attack benchmarks share: their JSON files, and docs/attacks.md made from them."""

import hashlib
import json
from pathlib import Path

from bench_machine import machine, revision

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "docs" / "results" / "attacks"
PAGE = ROOT / "docs" / "attacks.md"
BUDGETS = ("fast", "standard", "full")


def write(name, report, run, seconds):
    """One JSON a measurement; the run's id and folder stay out of it."""
    found = {k: v for k, v in report.items() if k not in ("run", "lines")}
    if run is not None:
        plain = run.config.model_dump(mode="json")
        for key in ("path", "root", "weights"):
            plain["teacher"].pop(key)
        plain["data"].pop("root"), plain.pop("threads")
        text = json.dumps(plain, sort_keys=True).encode()
        found |= {"title": title(run.config),
                  "config_hash": hashlib.blake2b(text, digest_size=8).hexdigest()}  # fmt: skip
    found |= {"wall_seconds": seconds, "machine": machine(), "revision": revision()}
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(found, indent=1, allow_nan=False) + "\n")


def title(config):
    """The run in a few words, its epsilon with its unit."""
    p = config.privacy
    unit = "answer" if p.route == "single" else "record" if p.unit == "answer" else p.unit
    epsilon = p.epsilon if p.route != "inherited" else config.teacher.dp.epsilon
    claim = "not private" if epsilon is None else f"eps {epsilon:g} per {unit}"
    answers = config.answers()
    split = config.data.split
    names = config.facts.class_names
    data = config.data.name
    data += "" if split is None else f" ({len(names)} classes private: {', '.join(names[:5])})"
    return f"{data}, route {p.route}, {p.mechanism}, {claim}, {answers:,} answers"


def load(prefix):
    return [json.loads(p.read_text()) for p in sorted(RESULTS.glob(f"{prefix}-*.json"))]


def render(path=PAGE):
    """Write the page."""
    path.write_text(page())


def page():
    lines = [
        "# Attacks and audits, measured",
        "",
        "Made by `scripts/bench_audit` and `scripts/bench_membership` from "
        "`docs/results/attacks/`; do not edit. How to read it: [audit.md](audit.md).",
    ]
    tests = load("self")
    for report in tests:
        lines += ["", "## The auditor's self-test", "", *self_test_rows(report)]
    lines += ["", "## Lower bounds on epsilon", ""]
    for report in load("audit"):
        lines += [f"**{report['title']}**; budget {report['budget']}, seed {report['seed']}, "
                  f"{report['wall_seconds']:.0f} s", "", *audit_rows(report), ""]  # fmt: skip
    lines += ["## Membership (unit: one record)", ""]
    for report in load("membership"):
        control = report["control"]
        lines += [
            f"**{report['title']}**; budget {report['budget']}, seed {report['seed']}, "
            f"{report['wall_seconds']:.0f} s; {report['spend']['shadows']} shadow teachers for "
            f"LiRA, {report['spend']['references']} for RMIA; positive control: AUC "
            f"{control['auc']:.3f} ({'power' if control['power'] else 'no power'})",
            "", *membership_rows(report), "",
        ]  # fmt: skip
    return "\n".join(lines).rstrip() + "\n"


def self_test_rows(report):
    rows = ["| mechanism | unit | claimed | median bound | must be | wrong calls | at most |",
            "|---|---|---|---|---|---|---|"]  # fmt: skip
    for o in report["outcomes"]:
        must = "violated" if o["broken"] else "not violated"
        rows.append(
            f"| {o['name']} | {o['unit']} | {o['quantity']} {o['claimed']:.3g} | "
            f"{o['median_bound']:.3g} | {must} | {o['wrong']} of {o['audits']} | "
            f"{o['allowed']} |"
        )
    return rows


def audit_rows(report):
    rows = [
        "| level | unit | at least | ceiling | claimed | verdict |",
        "|---|---|---|---|---|---|",
    ]

    def row(level, b):
        claimed = "infinite" if b["claimed_infinite"] else b["claimed"]
        claimed = "nothing" if claimed is None else claimed
        claimed = claimed if isinstance(claimed, str) else f"{claimed:.4g}"
        rows.append(
            f"| {level} ({b['quantity']}, {100 * b['confidence']:.3g} %) | {b['unit']} | "
            f"{b['value']:.3f} | {b['ceiling']:.3f} | {claimed} | {b['verdict']} |"
        )

    for b in report["levels"].get("mechanism", []):
        row("mechanism", b)
    for p in report["levels"].get("transcript", {}).get("pairs", []):
        exact = "infinite" if p["exact_epsilon"] is None else (
            f"{p['exact_epsilon']:,.{0 if p['exact_epsilon'] >= 100 else 2}f}"
        )  # fmt: skip
        row(f"transcript, {p['kind']}: {p['differing']:,} of {p['answers']:,} answers differ, the "
            f"pair's exact eps {exact}", p["bound"])  # fmt: skip
    for b in report["levels"].get("one_run", {}).get("bounds", []):
        row(b["method"], b)
    return rows


def membership_rows(report):
    rows = ["| target | rows | attack | members / non-members | AUC (95 %) | TPR at 1 % FPR (95 %) "
            "| verdict |", "|---|---|---|---|---|---|---|"]  # fmt: skip
    for c in report["cells"]:
        low, high = c["auc_interval"]
        t = c["tpr_at"]["0.01"]
        tpr = f"needs {t['needed']:,} non-members" if "needed" in t else (
            f"{100 * t['tpr']:.1f} % ({100 * t['interval'][0]:.1f} to "
            f"{100 * t['interval'][1]:.1f})" + (f", p {t['p_value']:.2g}" if "p_value" in t else "")
        )  # fmt: skip
        said = c["verdict"]
        if c["target"].startswith("run"):
            placebo = c.get("placebo")
            said = "no verdict: no placebo was measured" if placebo is None else (
                f"{said}; placebo {placebo[0]:.3f} ({placebo[1]:.3f} to {placebo[2]:.3f})"
            )  # fmt: skip
        rows.append(
            f"| {c['target']} | {c['rows']} | {c['attack']} | {c['members']} / {c['non_members']} "
            f"| {c['auc']:.3f} ({low:.3f} to {high:.3f}) | {tpr} | {said} |"
        )
    answers = report.get("student_answers")
    made = "" if answers is None else f", from {answers:,} answers"
    for name, t in report["targets"].items():
        rows += [""] if name == next(iter(report["targets"])) else []
        rows.append(f"- {name}: accuracy {100 * t['accuracy']:.1f} % on non-members, "
                    f"{100 * t['accuracy_on_members']:.1f} % on members"
                    + (made if name == "profile student" else ""))  # fmt: skip
    return rows
