"""Which accounts may belong together: by shared indicators, and by questions that are alike.

Edges are numbers, so that chance can be measured with the same code: `weigh` on shuffled accounts.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.special import log_ndtr
from scipy.stats import hypergeom

Ints = NDArray[np.int64]
Floats = NDArray[np.float32]

_ALL_PAIRS = 24  # accounts of an indicator up to which every pair is looked at
_RAREST = 0.5  # rarity below which a shared indicator proves too little: more than sqrt(n) have it
_PARTNERS = 12  # of each account, drawn at random, where more share an indicator
_BACKED = 1.3  # -log10 probability times rarity, from which a shared indicator is backed
_ALONE = 4.5  # standard deviations from which questions are alike without a shared indicator
_NEAREST = 20  # of an account's like ones are kept
_STRONGEST = 10.0  # an edge speaks like odds of 1 to 10^10 at most
_BLOCK = 1_024


@dataclass(frozen=True)
class Edges:
    """Pairs of accounts.

    Attributes:
        one, other: positions of accounts, int64 [E].
        weight: how much each pair speaks for one hand, float64 [E].
    """

    one: Ints
    other: Ints
    weight: NDArray[np.float64]

    def where(self, mask: NDArray[np.bool_]) -> "Edges":
        """Some of them."""
        return Edges(self.one[mask], self.other[mask], self.weight[mask])


def shared_pairs(accounts: Ints, indicators: Ints, n: int, rng: np.random.Generator) -> Edges:
    """Pairs of accounts that share indicators; the weight is the indicators' rarity.

    An indicator of d of n accounts has rarity log(n / d) / log(n): 1 at best, 0 where all have it.
    One that more than sqrt(n) accounts have, such as a large NAT or a browser, joins nobody here.
    A group of more than 24 accounts gives each member 12 partners at random instead of all pairs.

    Args:
        accounts: positions, int64 [M].
        indicators: numbers of the indicators with which they were seen, int64 [M].
        n: accounts in all.
        rng: draws partners.
    """
    rows = np.unique(np.stack([indicators, accounts], 1), axis=0)
    ends = np.flatnonzero(rows[1:, 0] != rows[:-1, 0]) + 1
    keys, weights = [np.zeros(0, np.int64)], [np.zeros(0)]
    for group in np.split(rows[:, 1], ends):
        d = len(group)
        if d < 2 or (rarity := np.log(n / d) / np.log(n)) < _RAREST:
            continue
        if d <= _ALL_PAIRS:
            a, b = np.triu_indices(d, 1)
        else:
            a = np.repeat(np.arange(d), _PARTNERS)
            b = (a + rng.integers(1, d, len(a))) % d
        low, high = np.minimum(group[a], group[b]), np.maximum(group[a], group[b])
        found = np.unique(low * n + high)
        keys.append(found)
        weights.append(np.full(len(found), rarity))
    pairs, place = np.unique(np.concatenate(keys), return_inverse=True)
    total = np.bincount(place, np.concatenate(weights), len(pairs)).astype(np.float64)
    return Edges(pairs // n, pairs % n, total)


def unit_rows(whitened: NDArray[np.float64]) -> Floats:
    """Rows of length 1, float32."""
    length = np.linalg.norm(whitened, axis=1, keepdims=True)
    return np.asarray(whitened / np.maximum(length, 1e-12), np.float32)


def spread_of_cosines(units: Floats, rng: np.random.Generator) -> float:
    """Standard deviation of the cosine of two accounts, by the median of random pairs."""
    one, other = rng.integers(0, len(units), (2, 20_000))
    cosines = _cosines(units, one[one != other], other[one != other])
    return max(1e-6, 1.4826 * float(np.median(np.abs(cosines - np.median(cosines)))))


def backed(pairs: Edges, units: Floats, spread: float) -> Edges:
    """Of pairs with shared indicators those whose questions are alike, weighted by both.

    Args:
        pairs: of `shared_pairs`.
        units: direction of each account's questions, float32 [N, D].
        spread: of cosines by chance.
    """
    apart = _cosines(units, pairs.one, pairs.other) / spread
    weight = pairs.weight * _speaks(apart)
    kept = weight > _BACKED  # weaker ones would join strangers by long chains
    return Edges(pairs.one[kept], pairs.other[kept], weight[kept])


def alike_pairs(units: Floats, spread: float) -> tuple[Edges, NDArray[np.float64]]:
    """All pairs whose questions are alike, or opposite, beyond chance; 20 for each account.

    Returns:
        The pairs, and 1 or -1 for each: alike or opposite. Opposite ones are as frequent by chance.
    """
    ones, others, cosines = [], [], []
    for start in range(0, len(units), _BLOCK):
        part = units[start : start + _BLOCK] @ units[start:].T / spread
        part[np.tril_indices(min(part.shape), 0, part.shape[1])] = 0
        strong = np.abs(part) > _ALONE
        for row in np.flatnonzero(strong.sum(1) > _NEAREST):
            values = np.abs(part[row])
            least = np.partition(values, -_NEAREST)[-_NEAREST]
            strong[row] = (values >= least) & strong[row]
        a, b = np.nonzero(strong)
        ones.append(a + start)
        others.append(b + start)
        cosines.append(part[a, b])
    apart = np.concatenate(cosines)
    weight = _speaks(np.abs(apart))
    signs = np.sign(apart).astype(np.float64)
    return Edges(np.concatenate(ones), np.concatenate(others), weight), signs


def components(edges: Edges, n: int) -> tuple[Ints, NDArray[np.float64]]:
    """Connected accounts.

    Returns:
        The component of each account, int64 [n], and the sum of each component's weights.
    """
    graph = coo_array((np.ones(len(edges.one)), (edges.one, edges.other)), shape=(n, n))
    count, label = connected_components(graph, directed=False)
    label = label.astype(np.int64)
    sums = np.bincount(label[edges.one], edges.weight, count)
    return label, sums.astype(np.float64)


def _speaks(apart: NDArray[np.floating]) -> NDArray[np.float64]:
    """-log10 of the probability that chance gives so large a cosine."""
    odds = -log_ndtr(-apart.astype(np.float64)) / np.log(10)
    return np.asarray(np.minimum(odds, _STRONGEST))


def _cosines(units: Floats, one: Ints, other: Ints) -> Floats:
    found = np.empty(len(one), np.float32)
    for start in range(0, len(one), 8 * _BLOCK):
        part = slice(start, start + 8 * _BLOCK)
        found[part] = np.einsum("ij,ij->i", units[one[part]], units[other[part]])
    return found


def enriched(members: Ints, accounts: Ints, indicators: Ints, n: int, tests: int) -> float:
    """P-value of the indicator that most sets a group of accounts apart, times all tests made.

    Fisher's exact test on each indicator: how many of the group have it, and how many of all.

    Args:
        members: positions of the group, chosen without looking at indicators.
        accounts: positions, int64 [M].
        indicators: numbers, int64 [M].
        n: accounts in all.
        tests: groups that are looked at.
    """
    rows = np.unique(np.stack([indicators, accounts], 1), axis=0)
    known, place, size = np.unique(rows[:, 0], return_inverse=True, return_counts=True)
    inside = np.bincount(place, np.isin(rows[:, 1], members), len(known)).astype(np.int64)
    some = inside > 1
    if not some.any():
        return 1.0
    p = hypergeom.sf(inside[some] - 1, n, size[some], len(members))
    return float(min(1.0, p.min() * len(known) * tests))
