"""A generator network whose random weights alone already make varied images.

What the architecture holds, before any training, is this and no more: random maps on grids of 2, 3
and 5 cells a side, convolutions that also see the position in the image, a mirror image that is
added to the fields of some images, and a head. The head puts ink where one field is near a level (a
narrow band is a curve, a wide one an area), a second field is high, and the place is inside of an
oval around the middle. The rest stays black. How wide, sharp, mirrored and bright the ink is
follows from the latent vector. No pen path, glyph, class shape or real image is in it. Images of
untrained networks as priors: Ulyanov et al., "Deep Image Prior" (CVPR 2018), and Baradad et al.,
"Learning to See by Looking at Noise" (NeurIPS 2021).
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_GRIDS = (2, 3, 5)  # cells a side of the random maps
_WIDTH = 16  # channels
_BODY = 32  # side of the convolutions, at most; smaller images have half of theirs
_KNOBS = 11  # numbers by which the latent vector steers the head
_PER_NETWORK = 128  # images of an untrained network before the next one


class FieldGenerator(nn.Module):
    """Latent [B, Z] -> images float32 in [0, 1], [B, C, H, W]; an image does not see its batch.

    Args:
        latent: Z.
        shape: (C, H, W), H and W at least 4.
    """

    spread: Tensor
    octave: Tensor
    down: Tensor
    across: Tensor
    place: Tensor
    squares: Tensor

    def __init__(self, latent: int, shape: tuple[int, int, int]) -> None:
        super().__init__()
        self.latent, (channels, height, width) = latent, shape
        self.rows, self.columns = (min(_BODY, (side + 1) // 2) for side in (height, width))
        self.maps = nn.Linear(latent, _WIDTH * sum(g * g for g in _GRIDS))
        self.knobs = nn.Linear(latent, _KNOBS)
        nn.init.normal_(self.knobs.weight, std=latent**-0.5)  # each knob is standard normal
        nn.init.zeros_(self.knobs.bias)
        self.body = nn.Sequential(*_block(_WIDTH + 3), *_block(_WIDTH))
        self.fields = nn.Conv2d(_WIDTH, 2 + channels, 3, padding=1)
        spreads = [torch.kron(_spread(g, self.rows), _spread(g, self.columns)) for g in _GRIDS]
        octaves = [torch.full((g * g,), float(i)) for i, g in enumerate(_GRIDS)]
        for name, constant in {
            "spread": torch.cat(spreads, 1).T,  # from all cells of all grids to the body's pixels
            "octave": torch.cat(octaves),
            "down": _spread(self.rows, height),
            "across": _spread(self.columns, width).T,
            "place": _place(self.rows, self.columns),
            "squares": _place(height, width)[:2].square(),
        }.items():
            self.register_buffer(name, constant.contiguous(), persistent=False)

    def forward(self, z: Tensor) -> Tensor:
        """Images of latent vectors."""
        n = len(z)
        knobs = self.knobs(z)[:, :, None, None, None].unbind(1)
        level, wide, sharp, open_, narrow, low, edge, bright, contrast, rough, mirror = knobs
        gain = torch.exp(-0.7 * self.octave * (1 + 0.7 * rough[:, :, 0, 0]))[:, None]
        x = (self.maps(z).view(n, _WIDTH, len(self.octave)) * gain) @ self.spread
        x = x / x.square().mean((1, 2), keepdim=True).sqrt().clamp_min(1e-3)
        x = x.view(n, _WIDTH, self.rows, self.columns)
        x = self.body(torch.cat([x, self.place.expand(n, -1, -1, -1)], 1))
        f = self.down @ self.fields(x) @ self.across
        f = f + torch.sigmoid(6 * mirror - 1) * f.flip(3)  # two images in five are symmetric
        f = f - f.mean((2, 3), keepdim=True)
        f = f / f.square().mean((2, 3), keepdim=True).sqrt().clamp_min(1e-3)

        band = torch.exp(0.9 * wide - 0.6) - (f[:, :1] - 0.5 * level).abs()
        x, y = self.squares
        oval = x * torch.exp(0.7 * narrow) + y * torch.exp(0.7 * low)
        gate = f[:, 1:2] + 0.7 * open_ + 0.3 - 4 * (oval - 0.5).clamp_min(0)
        ink = torch.sigmoid(torch.exp(0.6 * sharp + 2) * band)
        ink = ink * torch.sigmoid(torch.exp(0.6 * edge + 1.5) * gate)
        paint = torch.sigmoid(torch.exp(0.8 * contrast - 0.5) * f[:, 2:] + bright + 2)
        # The brightest ink of each image is full ink: a blank image would teach nothing.
        return paint * ink / ink.amax((2, 3), keepdim=True).clamp_min(1e-2)


@torch.no_grad()
def untrained(
    n: int, shape: tuple[int, int, int], latent: int, rng: torch.Generator, device: torch.device
) -> Tensor:
    """Images of networks with random weights, drawn anew for every 128 images.

    Args:
        n: number of images.
        shape: (C, H, W).
        latent: Z.
        rng: a generator of the CPU, the only source of randomness.
        device: where the images are computed.

    Returns:
        uint8 [n, C, H, W] on the CPU.
    """
    out = torch.empty((n, *shape), dtype=torch.uint8)
    for part in out.split(_PER_NETWORK):
        seed = int(torch.randint(2**62, (1,), generator=rng))
        model = fresh(latent, shape, seed).to(device)
        z = torch.randn(len(part), latent, generator=rng)
        part.copy_((model(z.to(device)) * 255).round())
    return out


def fresh(latent: int, shape: tuple[int, int, int], seed: int) -> FieldGenerator:
    """A network whose random weights follow from the seed; the global generator stays as it is."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return FieldGenerator(latent, shape)


def _block(width_in: int) -> list[nn.Module]:
    convolution = nn.Conv2d(width_in, _WIDTH, 3, padding=1, bias=False)
    return [convolution, nn.GroupNorm(4, _WIDTH), nn.LeakyReLU(0.2)]


def _spread(cells: int, pixels: int) -> Tensor:
    """The matrix [pixels, cells] of cubic interpolation along one axis."""
    wide = F.interpolate(torch.eye(cells)[None, None], (pixels, cells), mode="bicubic")
    return wide[0, 0]


def _place(height: int, width: int) -> Tensor:
    """Position of each pixel, -1 to 1 along each axis, and its squared distance, [3, H, W]."""
    y, x = (2 * (torch.arange(side) + 0.5) / side - 1 for side in (height, width))
    y, x = torch.meshgrid(y, x, indexing="ij")
    return torch.stack([x, y, x.square() + y.square()])
