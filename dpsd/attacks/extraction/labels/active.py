"""Active learning: ask where the clone is in doubt, or where nothing near was asked.

Pal et al., *ActiveThief* (AAAI 2020), without its search for adversarial examples.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from dpsd.attacks.extraction.clone import Clone, Holdings
from dpsd.attacks.extraction.endpoint import Endpoint
from dpsd.attacks.extraction.rounds import Candidates, by_rounds

_SHORTLIST = 3  # doubtful images for each that is asked, among which distance decides


def active(endpoint: Endpoint, holdings: Holdings) -> Iterator[Clone]:
    """Ask images with a small margin between two classes, far from each other (k-centre)."""
    return by_rounds(endpoint, holdings, doubtful_and_apart, "active")


def active_entropy(endpoint: Endpoint, holdings: Holdings) -> Iterator[Clone]:
    """Ask the images of which the clone's probabilities have the largest entropy."""
    return by_rounds(endpoint, holdings, lambda c, n: c.entropy().topk(n).indices, "active_entropy")


def active_margin(endpoint: Endpoint, holdings: Holdings) -> Iterator[Clone]:
    """Ask the images with the smallest margin between the clone's two likeliest classes."""
    return by_rounds(
        endpoint, holdings, lambda c, n: c.margin().topk(n, largest=False).indices, "active_margin"
    )


def active_centres(endpoint: Endpoint, holdings: Holdings) -> Iterator[Clone]:
    """Ask images that are far from all that were asked (k-centre, Sener and Savarese 2018)."""
    return by_rounds(
        endpoint, holdings, lambda c, n: far_apart(c.features, c.known, n), "active_centres"
    )


def doubtful_and_apart(candidates: Candidates, count: int) -> Tensor:
    """Of three times `count` images with the smallest margin, those that are far apart."""
    few = min(_SHORTLIST * count, len(candidates.images))
    doubtful = candidates.margin().topk(few, largest=False).indices
    return doubtful[far_apart(candidates.features[doubtful], candidates.known, count)]


def far_apart(features: Tensor, known: Tensor, count: int) -> Tensor:
    """Greedy k-centre: each time the row that is farthest from all known and chosen ones.

    It costs `count` distances to all rows.

    Args:
        features: float [N, D], N at least `count`.
        known: float [M, D]; there may be none, then the first row is chosen first.
        count: how many.

    Returns:
        int64 [count], each row at most once.
    """
    far = torch.full((len(features),), torch.inf)
    for part in known.split(2048):
        far = torch.minimum(far, torch.cdist(features, part).min(1).values)
    chosen = torch.zeros(count, dtype=torch.int64)
    for i in range(count):
        chosen[i] = best = int(far.argmax())
        far = torch.minimum(far, (features - features[best]).norm(dim=1))
        far[best] = -1
    return chosen
