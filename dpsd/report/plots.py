"""The kinds of drawings of a report. Each takes plain numbers and returns a `Drawing`."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dpsd.report.parts import Drawing
from dpsd.report.svg import DASHES, INK, LINE, MUTED, PAPER, SERIES, Edges, drawn, room

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True)
class Curve:
    """A line through points, with the range of each where it is known."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] = ()
    high: Sequence[float] = ()
    marks: bool = False
    steps: bool = False


def share(x: float, _: object = None) -> str:
    """A share as percent, as short as possible."""
    return f"{100 * x:.3g} %"


def whole(x: float, _: object = None) -> str:
    """A count."""
    return f"{x:,.0f}"


def short(x: float, _: object = None) -> str:
    """A number of any size in few characters."""
    return f"{x:,.0f}" if abs(x) >= 100 else f"{x:.3g}"


@dataclass(frozen=True)
class Axis:
    """Name, range and numbers of an axis."""

    name: str
    show: Callable[[float, object], str] = short
    log: bool = False
    limits: tuple[float, float] | None = None


def curves(
    found: Sequence[Curve],
    x: Axis,
    y: Axis,
    *,
    alt: str,
    caption: str,
    diagonal: str = "",
    point: tuple[float, float, str] | None = None,
) -> Drawing:
    """Curves over one axis.

    Args:
        found: at most six of one look each.
        x: the axis to the right.
        y: the axis upwards.
        alt: describes the drawing to those who do not see it.
        caption: stands below.
        diagonal: name of the line of equal x and y; empty: none.
        point: x, y and name of one point to be read off.
    """

    def draw(axes: "Axes") -> None:
        if x.log:
            axes.set_xscale("log")
        if y.log:
            axes.set_yscale("log")
        axes.set(xlabel=x.name, ylabel=y.name)
        if diagonal:
            least = max((axis.limits or (0, 1))[0] for axis in (x, y))
            ends = [least, 1]
            axes.plot(ends, ends, color=MUTED, linewidth=1, linestyle=":", label=diagonal)
        for i, curve in enumerate(found):
            colour, dash = SERIES[i % len(SERIES)], DASHES[i // len(SERIES) % len(DASHES)]
            dash = dash if len(found) > len(DASHES) else DASHES[i]
            axes.plot(curve.x, curve.y, color=colour, linestyle=dash, label=curve.name,
                      marker="o" if curve.marks else None, markersize=3.5,
                      drawstyle="steps-post" if curve.steps else "default")  # fmt: skip
            if curve.low:
                axes.fill_between(curve.x, curve.low, curve.high, color=colour, alpha=0.15,
                                  linewidth=0)  # fmt: skip
        if point is not None:
            axes.plot(point[0], point[1], "o", color=INK, markersize=5, zorder=5)
            axes.annotate(point[2], point[:2], xytext=(6, -11), textcoords="offset points")
        if x.limits is not None:
            axes.set_xlim(x.limits)
        if y.limits is not None:
            axes.set_ylim(y.limits)
        _formats(axes, x.show, y.show)
        if len(found) > 1 or diagonal:
            axes.legend(loc="best")

    return Drawing(drawn(draw, alt), caption)


def _formats(
    axes: "Axes", x: Callable[[float, object], str], y: Callable[[float, object], str]
) -> None:
    """Plain numbers at the axes; few of them, so that they do not meet on a phone."""
    from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

    for axis, show in ((axes.xaxis, x), (axes.yaxis, y)):
        log = axis.get_scale() == "log"
        low, high = axis.get_view_interval()
        few = log and high < 100 * low  # less than two powers of ten
        logarithmic = LogLocator(subs=(1, 2, 3, 5) if few else (1,), numticks=6)
        axis.set_major_locator(logarithmic if log else MaxNLocator(5, integer=show is whole))
        axis.set_major_formatter(show)
        axis.set_minor_locator(NullLocator())


def stacked(
    shares: Sequence[tuple[str, float]], *, limit: tuple[str, float] | None, alt: str,
    caption: str, x: str,
) -> Drawing:  # fmt: skip
    """One bar of parts that add up, and a limit where there is one."""

    def draw(axes: "Axes") -> None:
        left = 0.0
        for i, (name, size) in enumerate(shares):
            axes.barh(0, size, left=left, color=SERIES[i % len(SERIES)], label=name, height=0.5,
                      hatch="//" if i // len(SERIES) % 2 else None, edgecolor=PAPER,
                      linewidth=1)  # fmt: skip
            left += size
        if limit is not None:
            axes.axvline(limit[1], color=INK, linewidth=1.4, label=limit[0])
        axes.set(xlabel=x, yticks=[], ylim=(-0.5, 0.5),
                 xlim=(0, 1.08 * max(left, limit[1] if limit else 0.0) or 1))  # fmt: skip
        axes.grid(axis="y", visible=False)
        axes.spines["left"].set_visible(False)
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2 if len(shares) > 3 else 1)

    top = 0.12 + 0.19 * math.ceil((len(shares) + (limit is not None)) / (1 + (len(shares) > 3)))
    return Drawing(drawn(draw, alt, height=1.1 + top, edges=Edges(0.12, 0.15, top)), caption)


def bars(
    names: Sequence[str], values: Sequence[tuple[str, Sequence[float]]], *, alt: str, caption: str,
    x: str, x_format: Callable[[float, object], str] = share, most: float | None = 1.0,
) -> Drawing:  # fmt: skip
    """Horizontal bars: one group for each name, one bar for each of the values."""

    def draw(axes: "Axes") -> None:
        size = 0.8 / len(values)
        for i, (name, numbers) in enumerate(values):
            places = [j + (i - (len(values) - 1) / 2) * size for j in range(len(names))]
            axes.barh(places, numbers, height=0.92 * size, color=SERIES[i], label=name)
        axes.set(xlabel=x, yticks=range(len(names)), xlim=(0, most))
        axes.set_yticklabels(names)
        axes.invert_yaxis()
        axes.grid(axis="y", visible=False)
        axes.tick_params(axis="y", length=0)
        _only_x(axes, x_format)
        if len(values) > 1:
            axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=3)

    top = 0.35 if len(values) > 1 else 0.1
    height = 0.5 + top + max(0.26, 0.13 * len(values)) * len(names)
    return Drawing(drawn(draw, alt, height=height, edges=Edges(room(names), 0.25, top)), caption)


def _only_x(axes: "Axes", show: Callable[[float, object], str]) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.xaxis.set_major_formatter(show)


@dataclass(frozen=True)
class Bound:
    """A lower bound beside what it could have shown at most, and beside the claim."""

    name: str
    least: float
    ceiling: float
    claim: float | None


def bounds(found: Sequence[Bound], *, alt: str, caption: str, x: str) -> Drawing:
    """What is ruled out on the left, what remains possible on the right of each bound."""

    def draw(axes: "Axes") -> None:
        for i, b in enumerate(found):
            axes.plot(
                [b.least, b.ceiling],
                [i, i],
                color=SERIES[0],
                linewidth=5,
                alpha=0.3,
                solid_capstyle="butt",
                label=None if i else "could have been shown",
            )
            axes.plot(
                b.least,
                i,
                marker=">",
                color=SERIES[0],
                markersize=8,
                linestyle="none",
                label=None if i else "at least",
            )
            axes.plot(b.ceiling, i, marker="|", color=SERIES[0], markersize=11, linestyle="none",
                      label="ceiling" if not i else None)  # fmt: skip
        claims = [(i, b.claim) for i, b in enumerate(found) if b.claim is not None]
        if claims:
            axes.plot([c for _, c in claims], [i for i, _ in claims], marker="D", color=SERIES[1],
                      linestyle="none", markersize=6, label="claimed")  # fmt: skip
        axes.set(xlabel=x, yticks=range(len(found)), ylim=(len(found) - 0.5, -0.5))
        axes.set_yticklabels([b.name for b in found])
        axes.set_xlim(left=0)
        axes.grid(axis="y", visible=False)
        axes.tick_params(axis="y", length=0)
        _only_x(axes, short)
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2)

    edges = Edges(room(b.name for b in found), 0.2, 0.5)
    return Drawing(drawn(draw, alt, height=1.05 + 0.34 * len(found), edges=edges), caption)


def heat(
    counts: Sequence[Sequence[int]], names: Sequence[str], *, alt: str, caption: str, x: str,
    y: str,
) -> Drawing:  # fmt: skip
    """A square of counts; darker is the larger share of its row."""

    def draw(axes: "Axes") -> None:
        k = len(names)
        for i, row in enumerate(counts):
            for j, n in enumerate(row):
                part = n / max(1, sum(row))
                if n:
                    colour = SERIES[0] if i == j else SERIES[1]
                    axes.fill([j, j + 1, j + 1, j], [i, i, i + 1, i + 1], color=colour,
                              alpha=0.12 + 0.5 * part, linewidth=0)  # fmt: skip
                    if k <= 12:
                        axes.text(j + 0.5, i + 0.5, f"{n:,}", ha="center", va="center", fontsize=7)
        at = [i + 0.5 for i in range(k)]
        axes.set(xlim=(0, k), ylim=(k, 0), xlabel=x, ylabel=y, xticks=at, yticks=at, aspect="equal")
        long = max(map(len, names)) > 3
        axes.set_xticklabels(names, rotation=90 if long else 0)
        axes.set_yticklabels(names)
        axes.tick_params(length=0)
        axes.grid(visible=False)
        for spine in axes.spines.values():
            spine.set(visible=True, color=LINE)

    side = room(names)
    edges = Edges(side + 0.25, 0.1, 0.1, side + 0.25 if max(map(len, names)) > 3 else 0.5)
    return Drawing(drawn(draw, alt, height=4.2, edges=edges), caption)


def areas(
    x: Sequence[float], parts: Sequence[tuple[str, Sequence[float]]], *, alt: str, caption: str,
    x_name: str, y_name: str,
) -> Drawing:  # fmt: skip
    """Shares that add up to one, over x: one band for each part, named at its end."""

    def draw(axes: "Axes") -> None:
        below = [0.0] * len(x)
        for i, (name, values) in enumerate(parts):
            above = [b + v for b, v in zip(below, values, strict=True)]
            axes.fill_between(x, below, above, color=SERIES[i % len(SERIES)],
                              alpha=0.55 if i // len(SERIES) % 2 else 0.85, linewidth=0.8,
                              edgecolor=PAPER)  # fmt: skip
            if values[-1] > 0.03:
                axes.annotate(name, (x[-1], (below[-1] + above[-1]) / 2), xytext=(4, 0),
                              textcoords="offset points", va="center", fontsize=8,
                              annotation_clip=False)  # fmt: skip
            below = above
        axes.set(xlabel=x_name, ylabel=y_name, ylim=(0, 1), xlim=(x[0], x[-1]))
        _formats(axes, whole, share)

    edges = Edges(right=room(name for name, _ in parts))
    return Drawing(drawn(draw, alt, edges=edges), caption)
