"""What the sections of docs/results.md share."""

import json
import statistics
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from dpsd.tables import Table


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """The lines of a Markdown table, all columns on the left."""
    return Table(columns, rows, align="l" * len(columns)).markdown().splitlines()


def percent(values: Sequence[float]) -> str:
    """Mean in percent, with the standard deviation of several values; `-` for none."""
    if not values:
        return "-"
    spread = f" ± {100 * statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{100 * statistics.fmean(values):.2f}{spread}"


def column(results: Sequence[dict], key: str) -> str:
    """`percent` of one figure of several results."""
    return percent([r[key] for r in results])


def read(path: Path) -> dict:
    """A result; empty where it was not measured."""
    return json.loads(path.read_text()) if path.exists() else {}


def sift(
    paths: Iterable[Path], cells: dict[str, dict], hash_of: Callable[[dict, int], str]
) -> tuple[dict[str, list[dict]], list[str]]:
    """Cell -> its results, one a seed, and the names of files of another configuration."""
    current: dict[str, list[dict]] = {}
    stale = []
    for path in sorted(paths):
        result = json.loads(path.read_text())
        cell = cells.get(result["cell"])
        if cell is not None and hash_of(cell, result["seed"]) == result["config_hash"]:
            current.setdefault(result["cell"], []).append(result)
        else:
            stale.append(path.stem)
    return current, stale


def not_measured(cells: dict[str, dict], results: dict[str, list[dict]]) -> list[str]:
    """A line that names the cells without results; nothing if there are none."""
    titles = [cell["title"] for name, cell in cells.items() if name not in results]
    return [f"Not measured yet: {'; '.join(titles)}.", ""] if titles else []


def not_shown(stale: list[str]) -> list[str]:
    """A line that names files of another configuration; nothing if there are none."""
    names = ", ".join(stale)
    return [f"Measured with an earlier configuration, not shown: {names}.", ""] if stale else []
