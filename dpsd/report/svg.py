"""From a matplotlib figure to an SVG that takes its colours from the page.

The page has a light and a dark look. So the drawing names no colour: it is drawn in stand-ins,
which become variables of the page's style. Text stays text.
"""

import hashlib
import html
import io
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dpsd.figures import new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, MUTED, LINE, PAPER = "#000101", "#000102", "#000103", "#000104"
"""Text, quieter text, rules, background."""
SERIES = ("#000111", "#000112", "#000113", "#000114", "#000115", "#000116")
"""Colours of curves, in their order."""
GOOD, CAUTION, PROBLEM = "#000121", "#000122", "#000123"
_NAMES = {INK: "ink", MUTED: "muted", LINE: "line", PAPER: "paper", GOOD: "good",
          CAUTION: "caution", PROBLEM: "problem"} | {
    colour: f"s{i + 1}" for i, colour in enumerate(SERIES)
}  # fmt: skip
_WIDTH = 4.5  # inches: a narrow drawing stays readable on a phone
DASHES = ("-", "--", "-.", ":")
"""Curves differ in dashes too, for those who do not see the colours."""
_LOOK: Any = {
    "svg.fonttype": "none", "svg.hashsalt": "dpsd", "font.size": 8.5, "axes.titlesize": 9,
    "axes.labelsize": 8.5, "xtick.labelsize": 8, "ytick.labelsize": 8, "legend.fontsize": 8,
    "text.color": INK, "axes.labelcolor": INK, "axes.edgecolor": LINE, "xtick.color": MUTED,
    "ytick.color": MUTED, "grid.color": LINE, "grid.linewidth": 0.6, "axes.grid": True,
    "axes.facecolor": "none", "figure.facecolor": "none", "savefig.facecolor": "none",
    "axes.spines.top": False, "axes.spines.right": False, "legend.frameon": False,
    "lines.linewidth": 1.6, "axes.axisbelow": True, "axes.titlelocation": "left",
    "axes.titlecolor": INK, "patch.edgecolor": "none", "path.simplify": True,
}  # fmt: skip
_META = {"Date": None, "Creator": None, "Format": None, "Type": None}


@dataclass(frozen=True)
class Edges:
    """Inches around the axes, for numbers, names and legends."""

    left: float = 0.68
    right: float = 0.15
    top: float = 0.12
    bottom: float = 0.5


def room(names: Iterable[str]) -> float:
    """Inches that the longest of these names takes at the side of an axis."""
    return 0.15 + 0.075 * max((len(line) for name in names for line in name.split("\n")), default=0)


def drawn(
    draw: Callable[["Axes"], None],
    alt: str,
    *,
    height: float = 2.9,
    edges: Edges = Edges(),
) -> str:
    """An SVG element with what `draw` puts on one pair of axes.

    Args:
        draw: receives the axes.
        alt: describes the drawing to those who do not see it.
        height: in inches.
        edges: around the axes; a search for the best ones would take longer than all else.

    Returns:
        The same text for the same drawing, on every machine.
    """
    import matplotlib

    with matplotlib.rc_context(_LOOK):
        figure = new_figure(_WIDTH, height)
        figure.set_layout_engine(None)
        figure.subplots_adjust(
            edges.left / _WIDTH, edges.bottom / height,
            1 - edges.right / _WIDTH, 1 - edges.top / height,
        )  # fmt: skip
        draw(figure.add_subplot())
        return _themed(figure, alt)


def _themed(figure: "Figure", alt: str) -> str:
    file = io.BytesIO()
    metadata: dict[str, Any] = dict(_META)
    figure.savefig(file, format="svg", metadata=metadata)
    text = file.getvalue().decode()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>\s*", "", text, flags=re.S)
    text = re.sub(r"<!--.*?-->\s*", "", text, flags=re.S)
    text = re.sub(r"font: (?:\w+ )*?([\d.]+px)[^;\"]*", r"font-size: \1", text)
    for colour, name in _NAMES.items():
        text = text.replace(colour, f"var(--{name})")
    text = _own_ids(text)
    box = re.search(r'viewBox="([^"]+)"', text)
    assert box is not None
    head = (
        f'<svg class="plot" role="img" aria-label="{html.escape(alt)}" viewBox="{box.group(1)}" '
        'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink">'
    )
    return (head + text[text.index(">") + 1 :]).rstrip()


def _own_ids(text: str) -> str:
    """Ids that no other drawing of the page has; those that nothing refers to are dropped."""
    used = set(re.findall(r'(?:url\(#|href="#)([\w-]+)', text))
    mark = hashlib.blake2b(text.encode(), digest_size=4).hexdigest()

    def renamed(match: re.Match[str]) -> str:
        return f' id="d{mark}-{match[1]}"' if match[1] in used else ""

    text = re.sub(r' id="([\w.-]+)"', renamed, text)
    return re.sub(r'(url\(#|href="#)([\w-]+)', rf"\1d{mark}-\2", text)
