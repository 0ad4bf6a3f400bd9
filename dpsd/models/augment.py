"""Augmentation of which every image's change is given by its own random numbers."""

import torch
import torch.nn.functional as F
from torch import Tensor

DRAWS = 6
"""Random numbers that one image takes."""
_SHIFT = 1 / 14  # of the side
_TURN, _ZOOM, _SHEAR = 0.31, 0.15, 0.2  # radians, log of a factor, slope


def warp(images: Tensor, kind: str, draws: Tensor) -> Tensor:
    """Shift, flip, or also turn, scale and shear images, each by itself.

    Args:
        images: uint8 or float [B, C, H, W] of pixel values 0 to 255.
        kind: none | shift | shift-flip | affine, as in `teacher.augment`.
        draws: float [B, 6], uniform on 0 to 1.

    Returns:
        Of the shape and dtype of `images`; pixels from outside repeat the edge (affine) or are 0.
    """
    if kind == "none":
        return images
    return _affine(images, draws) if kind == "affine" else _shift(images, draws, kind)


def _shift(images: Tensor, draws: Tensor, kind: str) -> Tensor:
    n, channels, h, w = images.shape
    dy, dx = max(1, round(h * _SHIFT)), max(1, round(w * _SHIFT))
    padded = F.pad(images, (dx, dx, dy, dy))
    rows = torch.arange(h) + (draws[:, :1] * (2 * dy + 1)).long().clamp(max=2 * dy)
    columns = torch.arange(w) + (draws[:, 1:2] * (2 * dx + 1)).long().clamp(max=2 * dx)
    if kind == "shift-flip":
        columns = torch.where(draws[:, 2:3] < 0.5, columns.flip(1), columns)
    place = rows[:, :, None] * padded.shape[3] + columns[:, None, :]
    flat = padded.flatten(2).gather(2, place.flatten(1)[:, None].expand(-1, channels, -1))
    return flat.view(n, channels, h, w)


def _affine(images: Tensor, draws: Tensor) -> Tensor:
    u = 2 * draws.float() - 1
    turn, zoom = _TURN * u[:, 2], torch.exp(_ZOOM * u[:, 3])
    c, s = turn.cos() * zoom, turn.sin() * zoom
    across = torch.stack([c, _SHEAR * u[:, 4] - s, 2 * _SHIFT * u[:, 0]], 1)
    along = torch.stack([s, c, 2 * _SHIFT * u[:, 1]], 1)
    where = F.affine_grid(torch.stack([across, along], 1), list(images.shape), align_corners=False)
    seen = F.grid_sample(images.float(), where, padding_mode="border", align_corners=False)
    if images.dtype == torch.uint8:
        seen = seen.round_().clamp_(0, 255)
    return seen.to(images.dtype)
