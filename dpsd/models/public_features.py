"""Features for DP-SGD on natural images that public pictures fix: principal components.

A linear model with noise in every gradient loses more, the more weights it has. Principal
components of scattering coefficients keep what varies in pictures in few numbers. They are computed
on crops of the two photographs that ship with scikit-learn and on nothing else, so they cost no
record any privacy (features from public data: Tramèr and Boneh, arXiv 2011.11660, section 5.2).
"""

import functools
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dpsd.config.sections import GeneratorConfig
from dpsd.data.photographs import LEAST_SIDE, read_photographs
from dpsd.models.scattering import FilterBank, scattering_maps, unit_roots

COMPONENTS = 1000
_CROPS = 4096
_CHUNK = 512
_FLOOR = 1e-6  # added to a standard deviation


class PublicNet(nn.Module):
    """A linear layer on principal components of an image's unit scattering roots.

    Only the head's weights depend on the data. State dicts hold the components, so that a file made
    here works where they would come out a little different.

    Args:
        shape: channels, height, width; height and width from 12.
        classes: number of classes.
    """

    centre: Tensor
    components: Tensor

    def __init__(self, shape: tuple[int, int, int], classes: int) -> None:
        super().__init__()
        self.filters = FilterBank(*shape[1:])
        centre, components = public_components(shape)
        self.register_buffer("centre", centre.clone())
        self.register_buffer("components", components.clone())
        self.head = nn.Linear(components.shape[1], classes)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def inputs(self, x: Tensor) -> Tensor:
        """What the head reads, a fixed function of each image.

        Args:
            x: float [B, C, H, W] from 0 to 1.

        Returns:
            float32 [B, 1000].
        """
        roots = unit_roots(scattering_maps(x, self.filters).flatten(1))
        return (roots - self.centre) @ self.components

    def forward(self, x: Tensor) -> Tensor:
        """Logits [B, K]."""
        logits: Tensor = self.head(self.inputs(x))
        return logits


@functools.lru_cache(maxsize=2)
def public_components(shape: tuple[int, int, int]) -> tuple[Tensor, Tensor]:
    """The mean of unit scattering roots of public crops, and their principal components.

    Each root is divided by its standard deviation, and each component by the root of its own: half
    of a whitening. The columns together have norm sqrt(1000).

    Args:
        shape: channels, height, width.

    Returns:
        float32 [F] and [F, 1000], F the number of scattering coefficients. Fewer components where F
        is smaller.
    """
    with torch.inference_mode():
        crops = public_crops(shape, _CROPS).split(_CHUNK)
        roots = torch.cat([unit_roots(scattering_maps(x / 255).flatten(1)) for x in crops])
        centre, spread = roots.mean(0), roots.std(0) + _FLOOR
        components, deviations = principal((roots - centre) / spread, COMPONENTS)
        weights = components / deviations.sqrt() / spread[:, None]
        scale = math.sqrt(weights.shape[1]) / (components / deviations.sqrt()).norm()
    return centre.clone(), (weights * scale).clone()


def principal(rows: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Principal components of centred rows, by the eigenvectors of their products.

    Args:
        rows: float [N, F].
        count: at most so many; at most N - 1 and F.

    Returns:
        Unit columns [F, k], and the standard deviation of the rows along each, [k], largest first.
    """
    count = min(count, len(rows) - 1, rows.shape[1])
    values, vectors = torch.linalg.eigh(rows @ rows.T)
    lengths = values.flip(0)[:count].clamp_min(1e-12).sqrt()
    return rows.T @ vectors.flip(1)[:, :count] / lengths, lengths / math.sqrt(len(rows))


def public_crops(shape: tuple[int, int, int], count: int) -> Tensor:
    """Crops of the two photographs of scikit-learn, always the same: uint8 [N, C, H, W].

    Their sides are log-uniform from `LEAST_SIDE` pixels to the whole photograph, every second one
    is mirrored, and gains and gammas vary. Other numbers of channels than three hold random ones.
    """
    channels, height, width = shape
    photographs = [p.float() / 255 for p in read_photographs(GeneratorConfig())]
    rng = torch.Generator().manual_seed(0)
    out = torch.empty((count, *shape), dtype=torch.uint8)
    for i in range(count):
        photograph = photographs[i % len(photographs)]
        u = torch.rand(5, generator=rng).tolist()
        rows, columns = photograph.shape[1:]
        largest = min(rows / height, columns / width)
        scale = LEAST_SIDE / min(height, width)
        scale *= max(1.0, largest / scale) ** u[0]
        scale = min(scale, largest)
        h, w = max(1, int(scale * height)), max(1, int(scale * width))
        top, left = int(u[1] * (rows - h + 1)), int(u[2] * (columns - w + 1))
        crop = photograph[None, :, top : top + h, left : left + w]
        crop = F.interpolate(crop, (height, width), mode="bilinear", antialias=True)[0]
        crop = crop.flip(2) if i % 4 > 1 else crop
        crop = (crop * math.exp(u[3] - 0.5)).clamp(0, 1) ** math.exp(u[4] - 0.5)
        if channels != 3:
            crop = crop[torch.randint(3, (channels,), generator=rng)]
        out[i] = (crop * 255).round()
    return out
