"""Pictures of the dashboard as SVG text; colours come from the style sheet, by class.

They hold no words but titles: labels stand beside them as HTML, which keeps its size on a phone.
"""

from collections.abc import Sequence
from functools import lru_cache

import networkx as nx
import numpy as np
from markupsafe import Markup

from dpsd.serving.admin.board import Group, Points
from dpsd.serving.traffic import Minute

_MOST_NODES, _MOST_TIES = 150, 1_000  # of a graph that is drawn


def bars(minutes: Sequence[Minute], what: str) -> Markup:
    """A count by minute as bars; of requests, those that were refused stand in front.

    Args:
        minutes: oldest first.
        what: images | requests.
    """
    counts = [int(getattr(m, what)) for m in minutes]
    refused = [m.refused if what == "requests" else 0 for m in minutes]
    height, top, parts = 120, max([1, *counts]), []
    for i, pair in enumerate(zip(counts, refused, strict=True)):
        for kind, value in zip(("bar", "bar refused"), pair, strict=True):
            if value:
                tall = height * value / top
                bar = Markup('<rect class="{}" x="{}" y="{:.1f}" width="8" height="{:.1f}"/>')
                parts.append(bar.format(kind, 10 * i + 1, height - tall, tall))
    says = (f"{what.capitalize()} by minute over the last {len(minutes)} minutes: "
            f"{sum(counts):,} in all, at most {max(counts):,} in a minute")  # fmt: skip
    if what == "requests":
        says += f"; {sum(refused):,} refused"
    return _svg("bars", 10 * len(minutes), height, says, parts, stretch=True)


def cloud(honest: Points, asked: Points, name: str) -> Markup:
    """An account's latest questions beside honest ones, in the plane of pictures.

    Args:
        honest: float32 [N, 2].
        asked: float32 [M, 2].
        name: of the account.
    """
    size, edge = 200.0, 8.0
    both = np.concatenate([honest, asked]).astype(np.float64)
    both = both[np.isfinite(both).all(1)]
    if not len(both):
        return _svg("cloud", size, size, f"No questions of {name} to show yet", [])
    low, high = both.min(0), both.max(0)
    span = max(float((high - low).max()), 1e-9)  # one scale for both axes
    low = (low + high - span) / 2
    parts = []
    for kind, points in (("honest", honest), ("asked", asked)):
        places = edge + (size - 2 * edge) * (points.astype(np.float64) - low) / span
        dots = [f"M{x:.1f} {size - y:.1f}h0" for x, y in places[np.isfinite(places).all(1)]]
        parts.append(Markup('<path class="{}" d="{}"/>').format(kind, "".join(dots)))
    says = f"The latest {len(asked)} questions of {name} beside {len(honest)} honest ones"
    return _svg("cloud", size, size, says, parts)


def meter(suspicion: float, name: str) -> Markup:
    """Suspicion as a bar of which the mark at the middle is the alarm."""
    value = float(np.clip(suspicion, 0, 2)) if np.isfinite(suspicion) else 0.0
    kind = "full alarm" if value >= 1 else "full near" if value >= 0.5 else "full"
    parts = [
        Markup('<rect class="track" x="0" y="3" width="200" height="8" rx="4"/>'),
        Markup('<rect class="{}" x="0" y="3" width="{:.1f}" height="8" rx="4"/>')
        .format(kind, 100 * value),
        Markup('<rect class="tick" x="99" y="0" width="2" height="14"/>'),
    ]  # fmt: skip
    return _svg("meter", 200, 14, f"Suspicion of {name}: {value:.2f}; 1 is the alarm", parts)


def course(values: Sequence[float], name: str) -> Markup:
    """Suspicion after each window, oldest first, with a line at the alarm."""
    width, height = 600.0, 120.0
    values = [max(0.0, v) for v in values]
    top = max([1.2, *values])
    alarm = height * (1 - 1 / top)
    parts = [Markup('<line class="limit" x1="0" x2="{}" y1="{:.1f}" y2="{:.1f}"/>')
             .format(width, alarm, alarm)]  # fmt: skip
    if values:
        step = width / max(1, len(values) - 1)
        places = " ".join(f"{i * step:.1f},{height * (1 - v / top):.1f}"
                          for i, v in enumerate(values))  # fmt: skip
        parts.append(Markup('<polyline class="course" points="{}"/>').format(places))
    last = f"; {values[-1]:.2f} now" if values else ""
    says = (
        f"Suspicion of {name} over {len(values)} windows of questions{last}; the line is the alarm"
    )
    return _svg("course", width, height, says, parts, stretch=True)


def graph(group: Group, names: dict[str, str], blocked: set[str]) -> Markup:
    """Accounts of a cluster and what ties them; at most 150 of them and 1,000 ties are drawn.

    Args:
        group: the cluster.
        names: of accounts, by id.
        blocked: ids of accounts that are not answered.
    """
    width, height, edge = 320.0, 240.0, 24.0
    shown = group.members[:_MOST_NODES]
    known = set(shown)
    ties = [e for e in group.edges if e[0] in known and e[1] in known][:_MOST_TIES]
    places = np.array(_places(shown, tuple((a, b) for a, b, _ in ties))).reshape(-1, 2)
    low = places.min(0, initial=0.0)
    span = np.maximum(places.max(0, initial=0.0) - low, 1e-9)
    spots = edge + (np.array([width, height]) - 2 * edge) * (places - low) / span
    at = dict(zip(shown, spots.tolist(), strict=True))
    parts = [
        Markup('<line class="tie" x1="{:.1f}" y1="{:.1f}" x2="{:.1f}" y2="{:.1f}">{}</line>')
        .format(*at[a], *at[b], _title(f"{names.get(a, a)} and {names.get(b, b)}: {why}"))
        for a, b, why in ties
    ]  # fmt: skip
    for id, (x, y) in at.items():
        kind = "node blocked" if id in blocked else "node"
        dot = Markup('<circle class="{}" cx="{:.1f}" cy="{:.1f}" r="{}">{}</circle>')
        wide = 9 if len(shown) <= 30 else 5
        parts.append(dot.format(kind, x, y, wide, _title(names.get(id, id))))
    says = f"{len(group.members)} accounts that act together, with {len(group.edges)} ties"
    return _svg("graph", width, height, says, parts)


@lru_cache(maxsize=64)
def _places(members: tuple[str, ...], ties: tuple[tuple[str, str], ...]) -> list[list[float]]:
    """Where a spring layout puts accounts; the same ones lie where they lay before."""
    tied = nx.Graph()
    tied.add_nodes_from(members)
    tied.add_edges_from(ties)
    return [list(place) for place in nx.spring_layout(tied, seed=0).values()]


def _title(text: str) -> Markup:
    return Markup("<title>{}</title>").format(text)


def _svg(
    kind: str, width: float, height: float, says: str, parts: list[Markup], stretch: bool = False
) -> Markup:
    how = Markup(' preserveAspectRatio="none"') if stretch else Markup("")
    return Markup(
        '<svg class="{}" viewBox="0 0 {:g} {:g}" role="img" aria-label="{}"{}>{}</svg>'
    ).format(kind, width, height, says, how, Markup("").join(parts))
