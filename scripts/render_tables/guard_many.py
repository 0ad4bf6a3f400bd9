"""The sections on attacks by many accounts, and on what a guard leaves to an attacker."""

import json
from pathlib import Path
from typing import Any

from render_tables.common import read, table

_CONFIGS = {
    None: "no guard", "basic": "serve-basic", "watch": "serve-watch", "full": "serve-full",
}  # fmt: skip


def split(folder: Path) -> list[str]:
    """From guard/split-*.json and guard/clusters-honest.json."""
    found = [json.loads(path.read_text()) for path in folder.glob("split-*.json")]
    found.sort(key=lambda f: (f["accounts"], f["honest_share"], f["link"] != "shared"))
    honest = read(folder / "clusters-honest.json")
    lines = _honest(honest) if honest else []
    if not found:
        return lines
    rows = [
        (f"{f['accounts']:,}", f"{100 * f['honest_share']:.0f}", f["link"], _first(f),
         *(_accuracy(f["clones"][name]) for name in ("guard off", "guard on")),
         f"{max(s['honest_by_clusters'] for s in f['steps']):,} of {f['honest_accounts']:,}")
        for f in found
    ]  # fmt: skip
    return [
        *lines,
        "One attack with strokes, split over accounts that hide each question among honest ones "
        "(`scripts/bench guard-split`, one seed). `shared`: a tenth as many networks as accounts, "
        "begun within an hour; `alone`: a network each, begun within a day. Noticed: at the alarm "
        "by its own evidence or as a member of a linked cluster, at any look until then. Answered: "
        "what an account asked before it was noticed; the clone learns from that by distillation.",
        "",
        *table(("accounts", "honest questions, %", "link",
                "attack's questions until 90 % are noticed (most noticed)",
                "clone, guard off: answers, accuracy", "clone, guard on", "honest in its clusters"),
               rows),
        "",
    ]  # fmt: skip


def _honest(found: dict) -> list[str]:
    parts = (
        ("all", "all", "own evidence or a linked cluster"),
        ("own_evidence", "all", "own evidence"), ("by_clusters", "all", "a linked cluster"),
        ("behind_one_network_with_20", "behind a network with 20 accounts or more",
         "a linked cluster"),
    )  # fmt: skip
    rows = [
        (who, why, f"{r['accounts']:,}", f"{r['alarms']:,}", f"{100 * r['rate']:.3f}",
         f"{100 * r['upper']:.3f}")
        for key, who, why in parts if (r := found[key])
    ]  # fmt: skip
    return [
        f"The same with clusters on: held-out honest accounts behind {found['networks']:,} "
        f"networks, the largest with {found['largest_network']:,} accounts; "
        f"{found['clusters']} clusters were found.",
        "",
        *table(("honest accounts", "alarm by", "accounts", "alarms", "% of accounts",
                "upper bound, % (Clopper-Pearson, 97.5 %)"), rows),
        "",
    ]  # fmt: skip


def _first(found: dict) -> str:
    """When nine tenths of the accounts were noticed."""
    most = 100 * max(s["noticed"] for s in found["steps"])
    first = next((s["asked"] for s in found["steps"] if s["noticed"] >= 0.9), None)
    return f"not ({most:.0f} %)" if first is None else f"{first:,} ({most:.0f} %)"


def _accuracy(clone: dict[str, Any]) -> str:
    reached = "none" if clone["accuracy"] is None else f"{100 * clone['accuracy']:.2f} %"
    return f"{clone['answered']:,}, {reached}"


def value(folder: Path) -> list[str]:
    """From guard/value-*.json."""
    found = [json.loads(path.read_text()) for path in sorted(folder.glob("value-*.json"))]
    if not found:
        return []
    order = list(_CONFIGS)
    found.sort(key=lambda f: ("marked" in f["cell"], order.index(f["config"]), f["tier"]))
    rows = []
    for f in found:
        name = _CONFIGS[f["config"]] + (", nothing blocked" if "marked" in f["cell"] else "")
        for r in f["runs"]:
            rows.append((
                name, f["tier"] if f["config"] else "-", r["attack"], f"{r['answered']:,}",
                r["refused"] or "-",
                "none" if r["accuracy"] is None else f"{100 * r['accuracy']:.2f}",
                _p(r["wave"]), _p(r["account_mark"]),
            ))  # fmt: skip
    victim = 100 * found[0]["victim"]
    stopped = "; ".join(
        f"{_CONFIGS[f['config']]}, {f['tier']}: {100 * f['stopped']:.0f} %"
        for f in found if f["config"] and "marked" not in f["cell"]
    )  # fmt: skip
    return [
        f"What one account takes that tries {found[0]['asked']:,} questions about strokes within a "
        f"day (`scripts/bench guard-value`, one seed; the victim has {victim:.2f} %). The clone "
        "learns from what was answered. P-values are those of claims by the wave in the "
        "probabilities and by the account's marks.",
        "",
        *table(("configuration", "tier", "attack", "answered", "refused", "clone's accuracy, %",
                "wave, p-value", "account marks, p-value"), rows),
        "",
        f"Stopped (the clone stays below 90 % of the victim's accuracy): {stopped or '-'}.",
        "",
    ]  # fmt: skip


def _p(p: float | None) -> str:
    return "-" if p is None else f"{p:.1g}"
