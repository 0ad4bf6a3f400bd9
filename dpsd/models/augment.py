"""Augmentation: random changes of images that leave their classes as they are."""

import torch
import torch.nn.functional as F
from torch import Tensor

DRAWS = 6
"""Random numbers for each image."""
_SHIFT = 1 / 14  # of the side
_TURN, _ZOOM, _SHEAR = 0.31, 0.15, 0.2  # radians, log of a factor, slope


def augment(images: Tensor, kind: str, draws: Tensor | None = None) -> Tensor:
    """Shift each image, and flip it, or turn, scale and shear it, at random.

    Args:
        images: uint8 or float [B, C, H, W] of pixel values 0 to 255, on any device.
        kind: none | shift | shift-flip | affine, as in `teacher.augment`.
        draws: float [B, 6], uniform on 0 to 1; None draws on the processor from torch's global
            generator.

    Returns:
        Images of the same shape, dtype and device. Pixels from outside repeat the edge (affine) or
        are 0.
    """
    n, _, height, width = images.shape
    if kind == "none":
        return images
    if kind == "affine":
        drawn = torch.rand(n, DRAWS) if draws is None else draws.float()
        u = 2 * drawn.to(images.device) - 1
        zoom = torch.exp(_ZOOM * u[:, 3])
        moved = affine(
            images.float(), turn=_TURN * u[:, 2], wide=zoom, high=zoom, shear=_SHEAR * u[:, 4],
            right=2 * _SHIFT * u[:, 0], down=2 * _SHIFT * u[:, 1],
        )  # fmt: skip
        if images.dtype == torch.uint8:
            moved = moved.round_().clamp_(0, 255)
        return moved.to(images.dtype)
    reach = max(1, round(height * _SHIFT)), max(1, round(width * _SHIFT))
    if draws is None:
        down, right = (torch.randint(0, 2 * most + 1, (n, 1)) for most in reach)
        flip = torch.rand(n, 1) < 0.5 if kind == "shift-flip" else None
    else:
        down, right = (
            (draws[:, i : i + 1] * (2 * most + 1)).long().clamp(max=2 * most)
            for i, most in enumerate(reach)
        )
        flip = draws[:, 2:3] < 0.5 if kind == "shift-flip" else None
    mirrored = None if flip is None else flip.to(images.device)
    return _shift(images, reach, down.to(images.device), right.to(images.device), mirrored)


def affine(
    images: Tensor, *, turn: Tensor, wide: Tensor, high: Tensor, shear: Tensor, right: Tensor,
    down: Tensor,
) -> Tensor:  # fmt: skip
    """Turn, stretch, shear and move each image by its own amounts, all float [B].

    Args:
        images: float [B, C, H, W].
        turn: radians.
        wide: factor along a row; a negative one mirrors the image.
        high: factor along a column.
        shear: slope.
        right: half widths of the image.
        down: half heights of the image.

    Returns:
        float [B, C, H, W]; pixels from outside repeat the edge.
    """
    across = torch.stack([turn.cos() * wide, shear - turn.sin() * high, right], 1)
    along = torch.stack([turn.sin() * wide, turn.cos() * high, down], 1)
    grid = F.affine_grid(torch.stack([across, along], 1), list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)


def _shift(
    images: Tensor, reach: tuple[int, int], down: Tensor, right: Tensor, flip: Tensor | None
) -> Tensor:
    """Read each image at `down` and `right` (int64 [B, 1]) in a frame of `reach` zeros."""
    n, channels, height, width = images.shape
    dy, dx = reach
    padded = F.pad(images, (dx, dx, dy, dy))
    rows = torch.arange(height, device=images.device) + down
    columns = torch.arange(width, device=images.device) + right
    if flip is not None:
        columns = torch.where(flip, columns.flip(1), columns)
    place = rows[:, :, None] * padded.shape[3] + columns[:, None, :]
    flat = padded.flatten(2).gather(2, place.flatten(1)[:, None].expand(-1, channels, -1))
    return flat.view(n, channels, height, width)
