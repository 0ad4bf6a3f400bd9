"""Superpixels: pieces of an image of about one colour, by k-means on colour and place."""

import torch
from torch import Tensor

_ROUNDS = 5
_COMPACT = 0.5  # weight of a distance of one cell, by a distance from black to white


def superpixels(images: Tensor, per_side: int) -> Tensor:
    """Simple linear iterative clustering (SLIC, Achanta et al. 2012), for all images at once.

    Centres begin on a grid. A pixel joins the nearest centre in (colour, place); every centre is
    compared, which small images allow.

    Args:
        images: uint8 [B, C, H, W].
        per_side: the grid has per_side^2 centres.

    Returns:
        int64 [B, H, W], from 0 to per_side^2 - 1; numbers may be without a pixel.
    """
    n, _, height, width = images.shape
    steps = torch.tensor([height / per_side, width / per_side])
    rows = (torch.arange(height) + 0.5) / steps[0] * _COMPACT
    columns = (torch.arange(width) + 0.5) / steps[1] * _COMPACT
    place = torch.stack(torch.meshgrid(rows, columns, indexing="ij")).flatten(1)  # [2, P]
    colour = images.flatten(2).float() / 255
    points = torch.cat([colour, place.expand(n, -1, -1)], 1).mT  # [B, P, C + 2]
    grid = (torch.arange(per_side) + 0.5) * _COMPACT
    at = torch.stack(torch.meshgrid(grid, grid, indexing="ij")).flatten(1)  # [2, S]
    nearest = torch.cdist(place.T[None], at.T[None]).argmin(2).expand(n, -1)
    for _ in range(_ROUNDS):
        member = torch.nn.functional.one_hot(nearest, per_side**2).float()  # [B, P, S]
        count = member.sum(1).clamp_min(1)[..., None]
        centres = (member.mT @ points) / count
        empty = member.sum(1)[..., None] == 0
        centres = torch.where(empty, torch.full_like(centres, 1e3), centres)
        nearest = torch.cdist(points, centres).argmin(2)
    return nearest.view(n, height, width)
