"""The sections on attacks by many accounts, and on what a guard leaves to an attacker."""

import json
from pathlib import Path
from typing import Any

from bench_tables.guard_scan import CELLS as SCANS

from render_tables.common import read, table

_CONFIGS = {
    None: "no guard", "basic": "serve-basic", "watch": "serve-watch", "full": "serve-full",
}  # fmt: skip


def split(folder: Path) -> list[str]:
    """From guard/split-*.json and guard/clusters-honest.json."""
    found = [json.loads(path.read_text()) for path in folder.glob("split-*.json")]
    found.sort(key=lambda f: ("unseen" in f, f["accounts"], f["honest_share"],
                              f["link"] != "shared"))  # fmt: skip
    honest = read(folder / "clusters-honest.json")
    lines = _honest(honest) if honest else []
    if not found:
        return lines
    rows = [
        (f"{f['accounts']:,}", f"{100 * f['honest_share']:.0f}", f["link"],
         "no" if "unseen" in f else "yes", _first(f),
         _first(f, "ask_alike"),
         *(_accuracy(f["clones"][name]) for name in ("guard off", "guard on")),
         f"{max(s['honest_by_clusters'] for s in f['steps']):,}, "
         f"{max(s['honest_alike'] for s in f['steps']):,} of {f['honest_accounts']:,}")
        for f in found
    ]  # fmt: skip
    return [
        *lines,
        "One attack with strokes, split over accounts that hide each question among honest ones "
        "(`scripts/bench guard-split`, one seed). `shared`: a tenth as many networks as accounts, "
        "begun within an hour; `alone`: a network each, begun within a day. Noticed: at the alarm "
        "by its own evidence or as a member of a linked cluster, at any look until then. Answered: "
        "what an account asked before it was noticed; the clone learns from that by distillation. "
        "A strange cluster that only asks alike is no alarm: its accounts are slowed and shown "
        "less by the levels below that. With 20,000 accounts the attack asks 100,000 questions, "
        "about 10,000 images ten times each, among 20,000 honest accounts. Shown: whether the "
        "calibration showed strokes, of another seed, to the detector of outliers; else it saw "
        "blobs, leaves, spectra and crops of photographs alone.",
        "",
        *table(("accounts", "honest questions, %", "link", "shown",
                "attack's questions until 90 % are noticed (most noticed)",
                "until 90 % are in strange clusters, linked or not",
                "clone, guard off: answers, accuracy", "clone, guard on",
                "honest in these clusters: linked, all"),
               rows),
        "",
    ]  # fmt: skip


def _honest(found: dict) -> list[str]:
    parts = (
        ("by_clusters", "all", "in a linked cluster at the alarm"),
        ("behind_one_network_with_20", "behind a network with 20 accounts or more",
         "in a linked cluster at the alarm"),
        ("by_likeness", "all", "in a strange cluster that asks alike alone: slowed, no alarm"),
    )  # fmt: skip
    rows = [
        (who, what, f"{r['accounts']:,}", f"{r['alarms']:,}", f"{100 * r['rate']:.3f}",
         f"{100 * r['upper']:.3f}")
        for key, who, what in parts if (r := found[key])
    ]  # fmt: skip
    return [
        f"The same accounts behind {found['networks']:,} networks, the largest with "
        f"{found['largest_network']:,} of them, with clusters on (`scripts/bench guard-split`): "
        f"{found['clusters']} of them, found in {found['seconds_of_clusters']:.0f} seconds.",
        "",
        *table(("honest accounts", "which are", "accounts", "such", "% of accounts",
                "upper bound, % (Clopper-Pearson, 97.5 %)"), rows),
        "",
    ]  # fmt: skip


def _first(found: dict, key: str = "noticed") -> str:
    """When nine tenths of the accounts were noticed."""
    most = 100 * max(s[key] for s in found["steps"])
    first = next((s["asked"] for s in found["steps"] if s[key] >= 0.9), None)
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


def memory(folder: Path) -> list[str]:
    """From guard/store.json."""
    f = read(folder / "store.json")
    if not f:
        return []
    lost = "no charge" if not f["charges_lost"] else f"{f['charges_lost']:,} charges"
    return [
        f"The guard's memory in SQLite with {f['accounts']:,} accounts (`scripts/bench "
        f"guard-store`): a sketch has {f['sketch_bytes']:,} bytes, the file "
        f"{f['file_bytes_an_account']:,.0f} bytes an account. After `kill -9` it opened in "
        f"{1000 * f['seconds_to_open']:.0f} ms with {f['found']:,} accounts, and {lost} was lost. "
        f"Key, sketch and charge of a question take {f['milliseconds_a_question']:.2f} ms.",
        "",
    ]  # fmt: skip


def scans(folder: Path) -> list[str]:
    """From guard/scan-*.json."""
    found = [f for name in SCANS if (f := read(folder / f"{name}.json"))]
    if not found:
        return []
    rows = [
        (f"{f['rows']:,}", f["kind"], f"{f['features']} features" if f["features"] else "none",
         f"{f['accounts']:,}", f"{f['log_bytes'] / 2**30:.1f}", f"{f['seconds']:.0f}",
         f"{f['processor_seconds']:.0f}", f"{f['peak_bytes'] / 2**30:.2f}", str(f["place"] or "-"))
        for f in found
    ]  # fmt: skip
    return [
        "`dpsd guard scan` on access logs of a month with account and time (`scripts/bench "
        "guard-scan`; two threads of DuckDB, which may hold 2,000 MB; the process holds more). One "
        "account asks every 20 seconds round the clock; place: where the report has it.",
        "",
        *table(("rows", "file", "beside", "accounts", "GiB of log", "seconds", "processor seconds",
                "peak memory, GiB", "place"), rows),
        "",
    ]  # fmt: skip
