"""One hand behind many accounts ("hydra"): who belongs together, and what they ask in all.

Two questions, kept apart. Do accounts belong together? Those that share indicators are joined where
their questions are alike too, and a sum of such edges counts only above what shuffled accounts
reach. Does what they ask in all come from where honest questions come from? The sums of their
sketches add up, so that a shift that is too small in each account shows in the union.

Accounts are also joined by like questions alone, as where each comes from a network of its own.
Such a cluster is linked if an indicator is more frequent in it than chance allows. Else honest
people who do the same work look the same, which no shuffling tells from one hand: `linked` is
false.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import networkx as nx
import numpy as np

from dpsd.guard.clusters.links import (
    Edges,
    Ints,
    alike_pairs,
    backed,
    components,
    enriched,
    shared_pairs,
    spread_of_cosines,
    unit_rows,
)
from dpsd.guard.detection.variation import LEAST, Honest, Matrix, fit_honest, fit_variation

_SPLIT = 50_000  # edges up to which a component is looked into for communities


@dataclass(frozen=True)
class Cluster:
    """Accounts that one hand seems to use.

    Attributes:
        members: positions, in order.
        edges: pairs of positions and their weights.
        score: sum of the weights.
        null: the largest score of shuffled accounts, all repetitions together.
        linked: whether members share indicators; else only their questions are alike.
        asked: questions of all members.
        distance: of what they ask in all to the honest mean, squared Mahalanobis.
        suspicion: 0 for a usual account's distance, 1 at the alarm, at most 2.
    """

    members: tuple[int, ...]
    edges: tuple[tuple[int, int, float], ...]
    score: float
    null: float
    linked: bool
    asked: int
    distance: float
    suspicion: float

    @property
    def reason(self) -> str:
        """One sentence for people."""
        how = "share indicators and ask alike" if self.linked else "ask alike"
        strange = (
            "; together their questions do not come from where honest ones come from"
            if self.suspicion >= 1 else ""
        )  # fmt: skip
        return f"{len(self.members)} accounts {how}{strange}"


def find_clusters(
    accounts: Ints,
    indicators: Ints,
    deviations: Matrix,
    asked: Ints,
    *,
    alpha: float = 0.02,
    seed: int = 0,
    honest: Honest | None = None,
) -> list[Cluster]:
    """Clusters of accounts, the most suspicious first.

    By chance a cluster is reported with probability at most `alpha` a call: half of it for linked
    ones, where sketches are shuffled among accounts (exact where they do not depend on indicators),
    half for the others, where directions are flipped at random (exact where honest directions are
    as likely as their opposites; honest accounts with the same work are not).

    Args:
        accounts: positions, int64 [M]; with `indicators` one row for each indicator of each.
        indicators: numbers, int64 [M]; equal for equal indicators of one kind.
        deviations: of each account's mean question from the honest mean, float64 [N, D].
        asked: questions of each, int64 [N]; accounts without questions belong to no cluster.
        alpha: rate of false clusters.
        seed: of partners and shuffles.
        honest: of a reference; None: estimated from these accounts outside of clusters, which hides
            what more than one in a hundred of them ask.

    Raises:
        UserError: fewer than 40 accounts that asked, and no reference.
    """
    rng, n = np.random.default_rng(seed), len(asked)
    some = asked > 0
    count = np.maximum(asked, 1)
    variation = fit_variation(deviations[some], asked[some]) if honest is None else honest.variation
    units = unit_rows(variation.whiten(deviations, count) * some[:, None])
    spread = spread_of_cosines(units[some], rng)
    repeats = math.ceil(2 / alpha) - 1

    pairs = shared_pairs(accounts, indicators, n, rng)
    pairs = pairs.where(some[pairs.one] & some[pairs.other])
    who = np.flatnonzero(some)

    def shuffled() -> Edges:
        mixed = units.copy()
        mixed[who] = units[rng.permutation(who)]
        return backed(pairs, mixed, spread)

    alike, sign = alike_pairs(units, spread)

    def flipped() -> Edges:
        flip = rng.choice([-1, 1], n)
        return alike.where(flip[alike.one] * flip[alike.other] * sign > 0)

    linked = _beyond_chance(backed(pairs, units, spread), shuffled, repeats, n, seed)
    alone = _beyond_chance(alike.where(sign > 0), flipped, repeats, n, seed)
    groups = [(*g, True) for g in linked]
    for group in alone:
        p = enriched(np.array(group[0]), accounts, indicators, n, len(alone))
        groups.append((*group, p < alpha / 2))
    inside = {member for members, *_ in groups for member in members}
    rest = np.array([i for i in who if i not in inside], np.int64)
    if honest is None and len(rest) < 2 * LEAST:
        rest = who
    honest = honest or fit_honest(deviations[rest], asked[rest])
    found = [_judged(*group, deviations, asked, honest) for group in groups]
    return sorted(found, key=lambda c: (-c.suspicion, not c.linked, -c.score, c.members))


def _beyond_chance(
    edges: Edges, by_chance: Callable[[], Edges], repeats: int, n: int, seed: int
) -> list[tuple[tuple[int, ...], Edges, float]]:
    """Groups whose weights exceed those of every group of every repetition."""
    label, scores = components(edges, n)
    if not len(edges.one):
        return []
    null = max(float(components(by_chance(), n)[1].max(initial=0)) for _ in range(repeats))
    found = []
    for component in np.flatnonzero(scores > null):
        own = edges.where(label[edges.one] == component)
        groups = [g for g in _communities(own, seed) if g[1].weight.sum() > null]
        whole = tuple(map(int, np.flatnonzero(label == component)))
        found += [(m, e, null) for m, e in groups or [(whole, own)]]
    return found


def _communities(edges: Edges, seed: int) -> list[tuple[tuple[int, ...], Edges]]:
    """Parts of a component that hold together (Blondel et al. 2008, Louvain)."""
    if len(edges.one) > _SPLIT:
        return []
    graph = nx.Graph()
    graph.add_weighted_edges_from(zip(edges.one.tolist(), edges.other.tolist(),
                                      edges.weight.tolist(), strict=True))  # fmt: skip
    found = []
    for members in nx.community.louvain_communities(graph, seed=seed):
        part = np.array(sorted(members))
        own = edges.where(np.isin(edges.one, part) & np.isin(edges.other, part))
        found.append((tuple(map(int, part)), own))
    return found


def _judged(
    members: Sequence[int],
    edges: Edges,
    null: float,
    linked: bool,
    deviations: Matrix,
    asked: Ints,
    honest: Honest,
) -> Cluster:
    """The cluster as if it were one account."""
    rows = np.array(members)
    total = int(asked[rows].sum())
    pooled = (deviations[rows] * asked[rows, None]).sum(0) / total
    distance, suspicion = honest.suspicion(pooled, total)
    listed = tuple(zip(edges.one.tolist(), edges.other.tolist(), edges.weight.tolist(),
                       strict=True))  # fmt: skip
    return Cluster(tuple(members), listed, float(edges.weight.sum()), null, linked, total,
                   distance, suspicion)  # fmt: skip
