"""Endless crops of a few public photographs: the prior that is nearest to natural images.

Asano and Saeed, "Extrapolating from a Single Image to a Thousand Classes using Distillation" (ICLR
2023, arXiv 2112.00725): a student can learn from a teacher's answers to crops of one photograph, if
the crops vary enough. A crop differs in place, size, aspect, turn, colour and tone, and a part of
another crop may be pasted into it.
"""

import math
from collections.abc import Collection, Sequence

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from dpsd.data.photographs import LEAST_SIDE
from dpsd.generator.procedural import chance, normal, smooth_noise, uniform

AUGMENTATIONS = ("scale", "aspect", "turn", "flip", "colour", "tone", "paste")
"""scale: crops of all sizes, else as large as fits; aspect; turn: rotation and shear; flip: left
and right; colour: channels mixed; tone: gain, offset and gamma; paste: a part of another crop."""

Size = tuple[int, int]
"""Height and width in pixels."""

_ASPECT, _TURN, _SHEAR = math.log(4 / 3), 0.3, 0.15
_UPRIGHT = 0.5  # of the crops are not turned
_PASTED = 0.5  # of the images get a part of another crop
_MASK_MODES = 6  # cosine modes per axis of a mask's outline
ATLAS_BYTES = 2**30
"""All photographs and their smaller copies take at most so many bytes, edges included."""
_CHUNK_FLOATS = 2**20  # largest temporary of a chunk: small enough to stay in cache


class Photographs:
    """Draws images from photographs. It knows nothing else.

    All sizes of all photographs lie in one picture, the atlas. So one `grid_sample` cuts crops of
    any size out of any photograph, and each is cut out of the copy nearest to its own resolution.

    Args:
        photographs: uint8 [3, H, W] each, at least one, with sides from `LEAST_SIDE`. Where the
            atlas would take more than `ATLAS_BYTES`, wide ones are shrunk and cut at both ends.
        shape: (C, H, W) of the images to make. With C other than 3, channels are mixed at random.
        augmentations: which of `AUGMENTATIONS` vary a crop.
    """

    def __init__(
        self,
        photographs: Sequence[Tensor],
        shape: tuple[int, int, int],
        augmentations: Collection[str] = AUGMENTATIONS,
    ) -> None:
        self.shape, self.augmentations = shape, frozenset(augmentations)
        photographs = _fitted(photographs, min(shape[1:]))
        self._sides = torch.tensor([p.shape[:0:-1] for p in photographs], dtype=torch.float32)
        self._atlas, self._tops = _atlas(photographs, min(shape[1:]))

    def draw(self, n: int, rng: Generator) -> Tensor:
        """Images, uint8 [n, C, H, W], computed on the device of `rng`, their only randomness."""
        self._atlas, self._sides, self._tops = (
            t.to(rng.device) for t in (self._atlas, self._sides, self._tops)
        )
        out = torch.empty((n, *self.shape), dtype=torch.uint8, device=rng.device)
        chunk = _CHUNK_FLOATS // (max(3, self.shape[0]) * self.shape[1] * self.shape[2])
        for part in torch.split(out, max(2, min(1024, chunk))):
            part.copy_(self._images(len(part), rng).clamp_(0, 1).mul_(255).round_())
        return out

    def _images(self, n: int, rng: Generator) -> Tensor:
        """Float [n, C, H, W], about 0 to 1."""
        images = self._coloured(self._crops(n, rng), rng)
        if "paste" in self.augmentations and n > 1:
            # Each crop serves as a whole image and as the part of another one.
            others = images.roll(
                int(torch.randint(1, n, (1,), generator=rng, device=rng.device)), 0
            )
            images = torch.lerp(images, others, self._masks(n, rng))
        if "tone" in self.augmentations:
            gain, lift, gamma = normal(rng, 3, n, 1, 1, 1)
            images = ((images - 0.5) * torch.exp(0.3 * gain) + 0.5 + 0.1 * lift).clamp_(1e-4, 1)
            images = images.pow_(torch.exp(0.3 * gamma))
        return images

    def _crops(self, n: int, rng: Generator) -> Tensor:
        """Crops, float [n, 3, H, W] from 0 to 1."""
        _, height, width = self.shape
        which = torch.randint(len(self._sides), (n,), generator=rng, device=rng.device)
        sides = self._sides[which]
        largest = sides / torch.tensor([width, height], device=rng.device) * min(height, width)
        largest = largest.amin(1)
        side = largest
        if "scale" in self.augmentations:
            side = LEAST_SIDE * (largest / LEAST_SIDE).clamp(min=1) ** uniform(rng, n)
        half = (side / min(height, width) / 2)[:, None] * torch.tensor(
            [width, height], device=rng.device
        )
        if "aspect" in self.augmentations:
            stretch = torch.exp(_ASPECT / 2 * uniform(rng, n, low=-1))
            half = half * torch.stack([stretch, 1 / stretch], 1)
            half = half * (sides / 2 / half).amin(1, keepdim=True).clamp(max=1)
        centre = half + uniform(rng, n, 2) * (sides - 2 * half)
        turn, shear, mirror = torch.zeros(3, n, device=rng.device)
        if "turn" in self.augmentations:
            turn, shear = normal(rng, 2, n) * ~chance(_UPRIGHT, rng, n)
        if "flip" in self.augmentations:
            mirror = chance(0.5, rng, n).float()
        forms = _forms(half, _TURN * turn, _SHEAR * shear, 1 - 2 * mirror)
        grid = F.affine_grid(
            torch.cat([forms, centre[:, :, None]], 2), [n, 3, height, width], align_corners=False
        )
        return self._cut(grid, which, side / min(height, width))

    def _cut(self, grid: Tensor, which: Tensor, pitch: Tensor) -> Tensor:
        """The atlas at places `grid`, [n, H, W, 2] in pixels of the photographs `which`."""
        level = pitch.log2().round_().clamp_(0, self._tops.shape[1] - 1).long()
        sides, shrink = self._sides[which][:, None, None], torch.exp2(level)[:, None, None, None]
        grid = grid.abs_().sub_(sides).abs_().neg_().add_(sides)  # mirrored beyond the edges
        last = (sides / shrink).floor() - 0.5
        grid = torch.minimum(grid.div_(shrink).clamp_(min=0.5), last, out=grid)
        grid[..., 1] += self._tops[which, level][:, None, None]
        grid *= 2 / torch.tensor(self._atlas.shape[:1:-1], device=grid.device)
        return F.grid_sample(
            self._atlas.expand(len(grid), -1, -1, -1), grid.sub_(1), align_corners=False
        )

    def _coloured(self, images: Tensor, rng: Generator) -> Tensor:
        """Channels mixed at random, float [n, 3, H, W] -> [n, C, H, W]."""
        n, c = len(images), self.shape[0]
        if c == 3 and "colour" not in self.augmentations:
            return images
        # Rows sum to one, so that grey stays grey; half of the images keep their colours nearly.
        mixing = normal(rng, n, c, 3) + 0.7
        mixing = mixing / mixing.sum(2, keepdim=True).clamp(min=1)
        mixing = mixing + (1 - mixing.sum(2, keepdim=True)) / 3
        if c == 3:
            strength = uniform(rng, n, 1, 1) ** 3
            mixing = torch.lerp(torch.eye(3, device=rng.device).expand(n, -1, -1), mixing, strength)
        return (mixing @ images.flatten(2)).view(n, c, *self.shape[1:])

    def _masks(self, n: int, rng: Generator) -> Tensor:
        """Where another crop is pasted, float [n, 1, H, W] from 0 to 1: blobs with soft edges."""
        _, h, w = self.shape
        field = smooth_noise(h, w, uniform(rng, n, 1, low=1.5, high=3), rng, _MASK_MODES)
        threshold = 0.7 * normal(rng, n, 1, 1)
        sharpness = torch.exp(uniform(rng, n, 1, 1, high=3))
        mask = ((field - threshold) * sharpness + 0.5).clamp_(0, 1)
        return (mask * chance(_PASTED, rng, n, 1, 1))[:, None]


def _forms(half: Tensor, turn: Tensor, shear: Tensor, mirror: Tensor) -> Tensor:
    """Matrices from an image's own coordinates, -1 to 1, to pixels of a photograph, [n, 2, 2]."""
    cos, sin = turn.cos(), turn.sin()
    rotate = torch.stack([cos, shear - sin, sin, cos], 1).view(-1, 2, 2)
    return rotate * torch.stack([half[:, 0] * mirror, half[:, 1]], 1)[:, None]


def atlas_bytes(sizes: Sequence[Size], shape: tuple[int, int, int]) -> int:
    """Memory of the atlas, in bytes, at most `ATLAS_BYTES`.

    Args:
        sizes: height and width of each photograph.
        shape: (C, H, W) of the images to make.
    """
    side = min(shape[1:])
    return _bytes(_narrowed(sizes, side), side)


def _bytes(sizes: Sequence[Size], side: int) -> int:
    """Each photograph and each copy of it takes rows as wide as the widest photograph."""
    count = _levels(sizes, side)
    rows = sum(height for size in sizes for height, _ in _copies(size, count))
    return 3 * 4 * rows * max(width for _, width in sizes)


def _levels(sizes: Sequence[Size], side: int) -> int:
    """How many sizes of each photograph there are: the last of about the side of an image."""
    return 1 + max(0, round(math.log2(max(map(min, sizes)) / side)))


def _copies(size: Size, count: int) -> list[Size]:
    """Height and width of a photograph and of its smaller copies."""
    found = [size]
    for _ in range(count - 1):
        height, width = found[-1]
        found.append((height // 2, width // 2) if min(height, width) >= 2 else (height, width))
    return found


def _narrowed(sizes: Sequence[Size], side: int) -> list[Size]:
    """The sizes that photographs are brought to, so that the atlas takes at most `ATLAS_BYTES`."""
    if _bytes(sizes, side) <= ATLAS_BYTES:
        return list(sizes)
    tallest = ATLAS_BYTES // (3 * 4 * 2 * LEAST_SIDE * len(sizes))

    def at(widest: int) -> list[Size]:
        return [(min(tallest, max(LEAST_SIDE, h * min(w, widest) // w)), min(w, widest))
                for h, w in sizes]  # fmt: skip

    fits, most = LEAST_SIDE, max(w for _, w in sizes)
    while fits < most:
        width = (fits + most + 1) // 2
        if _bytes(at(width), side) <= ATLAS_BYTES:
            fits = width
        else:
            most = width - 1
    return at(fits)


def _fitted(photographs: Sequence[Tensor], side: int) -> list[Tensor]:
    """The photographs as `_narrowed` says: shrunk as far as it goes, then cut to their middle."""
    sizes = _narrowed([(p.shape[1], p.shape[2]) for p in photographs], side)
    return [_resized(p, size) for p, size in zip(photographs, sizes, strict=True)]


def _resized(photograph: Tensor, size: Size) -> Tensor:
    height, width = photograph.shape[1:]
    if (height, width) == size:
        return photograph
    scale = max(size[0] / height, size[1] / width)
    whole = max(size[0], round(scale * height)), max(size[1], round(scale * width))
    small = F.interpolate(photograph[None].float(), whole, mode="area")[0].round().to(torch.uint8)
    top, left = ((a - b) // 2 for a, b in zip(whole, size, strict=True))
    return small[:, top : top + size[0], left : left + size[1]]


def _atlas(photographs: Sequence[Tensor], side: int) -> tuple[Tensor, Tensor]:
    """All photographs at full, half, quarter ... size below each other.

    Returns:
        float [1, 3, H, W] from 0 to 1, and the first row of each photograph at each size,
        float [photographs, sizes].
    """
    sizes = [(p.shape[1], p.shape[2]) for p in photographs]
    count = _levels(sizes, side)
    atlas = torch.zeros(_bytes(sizes, side) // 4).view(1, 3, -1, max(width for _, width in sizes))
    tops, top = torch.zeros(len(photographs), count), 0
    for i, photograph in enumerate(photographs):
        level = photograph[None].float().div(255)
        for copy in range(count):
            if min(level.shape[2:]) >= 2 and copy:
                level = F.avg_pool2d(level, 2)
            tops[i, copy] = top
            atlas[:, :, top : top + level.shape[2], : level.shape[3]] = level
            top += level.shape[2]
    return atlas, tops
