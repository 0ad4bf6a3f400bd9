"""The table of marks in copies: claims at one p-value after each change of a copy."""

import json
from collections.abc import Sequence
from pathlib import Path

from bench_tables.marks import ALPHA, CELLS, claims, current_hash
from bench_tables.triggers import TRIGGER_CELLS
from bench_tables.triggers import current_hash as trigger_hash

from dpsd.console import percent
from render_tables.common import not_shown, sift, table

_COLUMNS = ("digits", "models", "wave claimed", "at least", "account claimed", "at least",
            "accuracy")  # fmt: skip


def marks(results: Path) -> list[str]:
    """The section, of the blocks that today's cells made; empty without any."""
    blocks = []
    for name, cell in CELLS.items():
        found = [json.loads(p.read_text()) for p in sorted(results.glob(f"{name}-*.json"))]
        blocks += [b for b in found if b["config_hash"] == current_hash(cell)]
    if not blocks:
        return []
    return [
        "## Marks in copies", "",
        f"A model is claimed below p = {ALPHA:g}. `at least` is the lower 95 % Clopper-Pearson "
        "bound of the rate. Each line of a copy is a change on top of the line before, but for a "
        "second copy of the untouched first one. Independent models learned from other rows with "
        "their own labels, and every claim of one is false.",
        "", *marks_table(blocks), "",
    ]  # fmt: skip


def marks_table(blocks: Sequence[dict]) -> list[str]:
    """One row for each step."""
    models = [m for b in blocks for m in b["models"]]
    rows = []
    for step in dict.fromkeys(m["step"] for m in models):
        found = claims(models, step)
        right = [m["accuracy"] for m in models if m["step"] == step]
        cells = [step, str(found["models"])]
        for mark in ("wave", "account"):
            cells += [str(found[mark]["claimed"]), percent(found[mark]["at_least"], 1)]
        rows.append([*cells, percent(sum(right) / len(right))])
    return table(_COLUMNS, rows)


def triggers(results: Path) -> list[str]:
    """The section on triggers; empty without results of today's cells."""
    found, stale = sift(results.glob("*-seed*.json"), TRIGGER_CELLS, trigger_hash)
    lines = []
    for runs in found.values():
        rows = []
        for name in runs[0]["models"]:
            own = [r["models"][name] for r in runs]
            shares = [m["obeyed"] / m["rows"] for m in own]
            rows.append((name, ", ".join(percent(share) for share in shares),
                         percent(sum(m["accuracy"] for m in own) / len(own))))  # fmt: skip
        lines += [
            "### A trigger in copies by asking", "",
            f"`scripts/bench extraction-triggers`, {runs[0]['title']}, {len(runs)} seeds: share of "
            "test rows of other classes that get the keyed class once their corner is white, for "
            f"each seed. A model that guesses among {runs[0]['classes']} classes obeys in "
            f"{percent(1 / runs[0]['classes'])} on average. The corners of digits are dark.",
            "", *table(("model", "obeys", "accuracy"), rows), "",
        ]  # fmt: skip
    return [*lines, *not_shown(stale)]
