"""One table, rendered as plain text, Markdown or HTML. Cells are text; who fills them formats."""

import html
from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Table:
    """Rows of text under column names.

    Args:
        columns: the names; all empty: no head is shown as text.
        rows: as many cells each as there are columns.
        align: `l` or `r` for each column; default: the first column left, all others right.
        title: stands above; may be empty.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    align: str = ""
    title: str = ""

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.columns):
                raise ValueError(f"table: {len(row)} cells in a row of {len(self.columns)} columns")

    def text(self) -> str:
        """For a terminal: columns two spaces apart, without spaces at the end of a line."""
        lines = [self.columns, *self.rows] if any(self.columns) else self.rows
        widths = [max((len(line[i]) for line in lines), default=0) for i in range(self._width)]
        rows = ["  ".join(self._cells(line, widths)).rstrip() for line in lines]
        return "\n".join([*([self.title] if self.title else []), *rows])

    def markdown(self) -> str:
        """A pipe table; a `|` in a cell is escaped."""
        rule = "".join(f"{'---:' if side == 'r' else '---'}|" for side in self._sides)
        head, *rows = ("".join(f" {c} |" if c else " |" for c in line)
                       for line in self._escaped())  # fmt: skip
        title = [f"**{self.title}**", ""] if self.title else []
        return "\n".join([*title, *(f"|{line}" for line in (head, rule, *rows))])

    def html(self) -> str:
        """A `table` element; every cell is escaped."""
        title = f"<caption>{html.escape(self.title)}</caption>" if self.title else ""
        head = f"<thead><tr>{self._html_cells('th', self.columns)}</tr></thead>"
        body = "".join(f"<tr>{self._html_cells('td', row)}</tr>" for row in self.rows)
        return f"<table>{title}{head}<tbody>{body}</tbody></table>"

    def _escaped(self) -> list[list[str]]:
        return [[c.replace("|", r"\|") for c in line] for line in (self.columns, *self.rows)]

    @property
    def _width(self) -> int:
        return len(self.columns)

    @property
    def _sides(self) -> str:
        return self.align or "l" + "r" * (self._width - 1)

    def _cells(self, line: Sequence[str], widths: Iterable[int]) -> list[str]:
        sides = zip(line, widths, self._sides, strict=True)
        return [c.rjust(w) if side == "r" else c.ljust(w) for c, w, side in sides]

    def _html_cells(self, tag: str, line: Sequence[str]) -> str:
        style = {"l": "", "r": ' style="text-align:right"'}
        cells = zip(line, self._sides, strict=True)
        return "".join(f"<{tag}{style[s]}>{html.escape(c)}</{tag}>" for c, s in cells)


def facts_table(rows: Sequence[tuple[str, str]]) -> Table:
    """Names and values under each other, without a head."""
    return Table(("", ""), rows, align="ll")
