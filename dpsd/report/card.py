"""Figures that stand on the card of a release because its data were declared public."""

import re
from pathlib import Path

from dpsd.report.parts import Grid, Part, Text
from dpsd.tables import Table

UTILITY, ATTACKS = ("Measured figures",), (
    "Membership inference", "Inversion attacks", "Audit", "Extraction",
)  # fmt: skip
"""Headings of the sections that hold figures measured on the data."""
_CELL = re.compile(r"(?<!\\)\|")


def measured_sections(release: Path) -> dict[str, list[str]]:
    """Lines of those sections of the card that hold measured figures, by heading."""
    card = release / "README.md"
    found: dict[str, list[str]] = {}
    lines: list[str] = []
    for line in card.read_text().splitlines() if card.is_file() else []:
        if line.startswith("## "):
            title, lines = line.removeprefix("## "), list[str]()
            if title in (*UTILITY, *ATTACKS):
                found[title] = lines
        else:
            lines.append(line)
    return found


def card_parts(title: str, lines: list[str]) -> list[Part]:
    """A section of the card as parts: its paragraphs, and its pipe tables."""
    parts: list[Part] = []
    for block in "\n".join(lines).strip().split("\n\n"):
        rows = block.splitlines()
        if len(rows) > 1 and set(rows[1]) <= set("|-: "):
            head, *body = (_cells(row) for row in (rows[0], *rows[2:]))
            align = "".join("r" if rule.endswith(":") else "l" for rule in _cells(rows[1]))
            columns = [name or "-" for name in head]
            parts.append(Grid(Table(columns, body, align=align, title=f"{title}, from the card")))
        elif block:
            parts.append(Text(block.replace("**", "").replace("\n", " ")))
    return parts


def _cells(row: str) -> list[str]:
    return [cell.strip().replace(r"\|", "|") for cell in _CELL.split(row.strip())[1:-1]]
