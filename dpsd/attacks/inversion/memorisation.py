"""Whether a reconstruction lies nearer to images that the teacher saw than to others.

A model that learned a class has not memorised a record. Distances to training images mean something
only beside distances to as many held-out images of the same class.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from dpsd.attacks.statistics import Floats
from dpsd.data.load import PrivateData, Split

_WINDOW = 7


@dataclass(frozen=True)
class Pools:
    """For each class P training and P held-out images, uint8 [K, P, C, H, W] each."""

    train: Tensor
    held: Tensor


def equal_pools(data: PrivateData, most: int, seed: int) -> Pools:
    """As many training as held-out images of every class, at most `most`, drawn by the seed."""
    rng = torch.Generator().manual_seed(seed)
    classes = int(data.train.labels.max()) + 1
    counts = [s.labels.bincount(minlength=classes).min() for s in (data.train, data.holdout)]
    size = min(most, *(int(c) for c in counts))

    def drawn(split: Split) -> Tensor:
        picked = []
        for c in range(classes):
            rows = (split.labels == c).nonzero()[:, 0]
            picked.append(split.images[rows[torch.randperm(len(rows), generator=rng)[:size]]])
        return torch.stack(picked)

    return Pools(drawn(data.train), drawn(data.holdout))


def pool_distances(images: Tensor, labels: Tensor, pools: Pools) -> Tensor:
    """Root mean squared pixel distance on a range of 0 to 1, float32 [R, 2P]; training first.

    Args:
        images: uint8 [R, C, H, W].
        labels: int64 [R], the class of the pools that each image is compared with.
        pools: of images.
    """
    out = torch.empty(len(images), 2 * pools.train.shape[1])
    for c in labels.unique().tolist():
        both = torch.cat([pools.train[c], pools.held[c]]).flatten(1).float() / 255
        rows = labels == c
        x = images[rows].flatten(1).float() / 255
        out[rows] = torch.cdist(x, both) / x.shape[1] ** 0.5
    return out


def gap(distances: Floats, labels: NDArray[np.int64]) -> tuple[float, Floats]:
    """Mean over reconstructions of (nearest training - nearest held-out) distance.

    Args:
        distances: [R, 2P], training images in the first half.
        labels: int64 [R].

    Returns:
        The mean over classes of the mean in each class, and the gaps [R].
    """
    size = distances.shape[1] // 2
    gaps = distances[:, :size].min(1) - distances[:, size:].min(1)
    return _class_mean(gaps, labels), gaps


def gap_p_value(
    distances: Floats, labels: NDArray[np.int64], *, permutations: int = 999, seed: int = 0
) -> float:
    """One-sided p-value: how often a random relabelling of each class's pool gives as small a gap.

    If teacher and attack treat training and held-out images alike, it does not matter which half of
    the pool is called "training". That label is permuted, once for all reconstructions of a class.
    The reconstructions themselves are not permuted, as they are not independent.

    Returns:
        (1 + permutations with a gap at most the observed) / (1 + permutations).
    """
    rng = np.random.default_rng(seed)
    observed, _ = gap(distances, labels)
    size = distances.shape[1] // 2
    first = np.arange(2 * size) < size
    means = []
    for c in np.unique(labels):
        chosen = rng.permuted(np.tile(first, (permutations, 1)), axis=1)
        total = np.zeros(permutations)
        group = distances[labels == c]
        for row in group:
            order = row.argsort()
            near = chosen[:, order]  # the nearest of either half is the first of its kind here
            total += row[order[near.argmax(1)]] - row[order[near.argmin(1)]]
        means.append(total / len(group))
    hits = int((np.mean(means, axis=0) <= observed).sum())
    return (1 + hits) / (1 + permutations)


def nearest(images: Tensor, labels: Tensor, pools: Pools) -> tuple[Tensor, Tensor]:
    """PSNR (dB) and SSIM of each image with the nearest training image of its class, [R] each.

    Args:
        images: uint8 [R, C, H, W].
        labels: int64 [R].
        pools: of images.
    """
    size = pools.train.shape[1]
    place = pool_distances(images, labels, pools)[:, :size].argmin(1)
    partner = pools.train[labels, place].float() / 255
    x = images.float() / 255
    return psnr(x, partner), ssim(x, partner)


def psnr(x: Tensor, y: Tensor) -> Tensor:
    """-10 log10 of the mean squared difference on a range of 0 to 1, [B, C, H, W] -> [B] dB."""
    error = (x - y).square().mean((1, 2, 3)).clamp_min(1e-10)
    return -10 * error.log10()


def ssim(x: Tensor, y: Tensor) -> Tensor:
    """Structural similarity over 7 x 7 windows (Wang et al. 2004, equation 13), range 0 to 1.

    Variances are those of a sample (divided by 48), and only whole windows count, as in
    scikit-image. torchmetrics divides by 49 and counts windows of reflected borders, so its figures
    differ by about 0.01.

    Args:
        x: float [B, C, H, W] in [0, 1].
        y: the same.

    Returns:
        [B], 1 for equal images.
    """
    n = _WINDOW * _WINDOW
    unbiased = n / (n - 1)

    def mean(a: Tensor) -> Tensor:
        return F.avg_pool2d(a, _WINDOW, 1)

    x, y = x.double(), y.double()
    mx, my = mean(x), mean(y)
    vx, vy = (mean(a * a) - m * m for a, m in ((x, mx), (y, my)))
    cov = mean(x * y) - mx * my
    vx, vy, cov = unbiased * vx, unbiased * vy, unbiased * cov
    c1, c2 = 0.01**2, 0.03**2
    top = (2 * mx * my + c1) * (2 * cov + c2)
    return (top / ((mx * mx + my * my + c1) * (vx + vy + c2))).mean((1, 2, 3)).float()


def _class_mean(values: Floats, labels: NDArray[np.int64]) -> float:
    by_class: Iterable[float] = (float(values[labels == c].mean()) for c in np.unique(labels))
    return float(np.mean(list(by_class)))
