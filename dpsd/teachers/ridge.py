"""The member kind `scatter-linear`: ridge regression on fixed scattering features of one shard."""

import torch
from torch import Tensor

from dpsd.models.augment import DRAWS, augment
from dpsd.models.scattering import scattering_features, unit_roots

_MOST_RECORDS = 512
"""Records of a shard that are used at most, so that no user's size decides the time."""
_TEACHERS = 64  # asked at once


def features(images: Tensor) -> Tensor:
    """What a member reads: the unit roots of the scattering coefficients.

    Args:
        images: uint8 [B, C, H, W].

    Returns:
        float32 [B, F].
    """
    return unit_roots(scattering_features(images))


def fit_member(
    images: Tensor,
    labels: Tensor,
    *,
    classes: int,
    rng: torch.Generator,
    kind: str,
    copies: int,
    ridge: float,
) -> tuple[Tensor, Tensor]:
    """Weights and intercepts of one member, from its own records and random stream alone.

    Ridge regression on one-hot labels with an intercept, in its dual form:
    W = X^T (X X^T + r I)^-1 T (Hoerl and Kennard 1970), where X and T are centred on the shard.

    Args:
        images: uint8 [B, C, H, W], B at least 1.
        labels: int64 [B].
        classes: K.
        rng: the member's stream.
        kind: of augmentation.
        copies: versions of each record, of which the first is not augmented.
        ridge: r / copies.

    Returns:
        Weights float32 [F, K] and intercepts float32 [K].
    """
    if len(images) > _MOST_RECORDS:
        kept = torch.randperm(len(images), generator=rng)[:_MOST_RECORDS]
        images, labels = images[kept], labels[kept]
    versions = [images]
    for _ in range(copies - 1):
        versions.append(augment(images, kind, torch.rand(len(images), DRAWS, generator=rng)))
    x = features(torch.cat(versions))
    target = torch.nn.functional.one_hot(labels.repeat(copies), classes).float()
    middle, share = x.mean(0), target.mean(0)
    x = x - middle
    gram = x @ x.mT
    gram.diagonal().add_(ridge * copies)
    weight = x.mT @ torch.linalg.solve_ex(gram, target - share).result
    return weight, share - middle @ weight


def linear_choices(weight: Tensor, bias: Tensor, images: Tensor) -> Tensor:
    """The class that each of n members votes for, on each image.

    Args:
        weight: float [n, F, K].
        bias: float [n, K].
        images: uint8 [B, C, H, W].

    Returns:
        int64 [n, B]; 0 where a member's logits are not finite.
    """
    x = features(images).to(weight.device)
    parts = []
    for w, b in zip(weight.split(_TEACHERS), bias.split(_TEACHERS), strict=True):
        logits = (x @ w.float().permute(1, 0, 2).flatten(1)).unflatten(1, (len(w), -1)) + b.float()
        parts.append(choices(logits).mT)
    return torch.cat(parts)


def choices(logits: Tensor) -> Tensor:
    """The index of the largest logit on the last dimension, int64; 0 where one is not finite."""
    return torch.where(logits.isfinite().all(-1), logits.argmax(-1), 0)
