"""MARICH: entropy, then gradients that differ, then where clone and model differ.

Karmakar and Basu, *Marich: A Query-efficient Distributionally Equivalent Model Extraction Attack*
(NeurIPS 2023), algorithm 1.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from dpsd.attacks.extraction.clone import Clone, Holdings
from dpsd.attacks.extraction.endpoint import Endpoint
from dpsd.attacks.extraction.rounds import Candidates, by_rounds

_UNSURE, _DIVERSE = 4, 2  # images kept after the first and the second sieve, for each asked
_CLUSTERS = 10
_TAKEN = 1_000  # answers that the clone gets most wrong, at most


def marich(endpoint: Endpoint, holdings: Holdings) -> Iterator[Clone]:
    """Ask what passes three sieves (Karmakar and Basu 2023, algorithm 1).

    It needs labels alone; the clone learns probabilities where there are any. The gradients of
    the second sieve are those of the entropy with regard to the clone's logits.
    """
    return by_rounds(endpoint, holdings, three_sieves, "marich")


def three_sieves(candidates: Candidates, count: int) -> Tensor:
    """Rows of the candidates, int64 [count].

    1. The images of largest entropy: four times `count`.
    2. Of these, twice `count` from clusters of their gradients, by turns.
    3. Of these, the nearest to answered images on which the clone and the answer differ most.
    """
    n = len(candidates.images)
    unsure = candidates.entropy().topk(min(_UNSURE * count, n)).indices
    left = candidates.only(unsure)
    diverse = unsure[_by_turns(_gradients(left), min(_DIVERSE * count, len(unsure)), left)]
    worst = candidates.loss.topk(min(_TAKEN, count, len(candidates.loss))).indices
    distance = torch.cdist(candidates.features[diverse], candidates.known[worst])
    return diverse[distance.min(1).values.topk(count, largest=False).indices]


def _gradients(candidates: Candidates) -> Tensor:
    """Direction in which the entropy rises, as the clone's logits see it: float [N, K].

    With p the probabilities, dH / dz = -p (log p + H), for the logits z.
    """
    p = candidates.probabilities.clamp_min(1e-6)
    return -p * (p.log() + candidates.entropy()[:, None])


def _by_turns(gradients: Tensor, count: int, candidates: Candidates) -> Tensor:
    """Rows from all clusters by turns, in each the nearest to the centre first."""
    from sklearn.cluster import KMeans  # takes a second to import

    seed = int(torch.randint(2**31 - 1, (1,), generator=candidates.rng))
    means = KMeans(min(_CLUSTERS, len(gradients)), n_init=1, random_state=seed)
    distance = torch.from_numpy(means.fit_transform(gradients.numpy()))
    nearest = distance.min(1)
    order = nearest.values.argsort()
    turn = torch.zeros(len(gradients), dtype=torch.int64)
    for cluster in nearest.indices.unique():
        own = order[nearest.indices[order] == cluster]
        turn[own] = torch.arange(len(own))
    return turn.argsort(stable=True)[:count]
