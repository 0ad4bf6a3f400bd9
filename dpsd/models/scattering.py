"""A fixed two-dimensional wavelet scattering transform: features that are public and untrained.

Second order, J = 2 scales, L = 8 orientations, Morlet wavelets (Bruna and Mallat, *Invariant
Scattering Convolution Networks*, 2013). For a grey image of 28 x 28 it gives 81 maps of 7 x 7, the
features on which linear models trained with DP-SGD do best (Tramèr and Boneh, arXiv 2011.11660).
Nothing in it depends on any data, and each image is transformed by itself.
"""

import functools
import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dpsd.errors import UserError

SCALES = 2
ORIENTATIONS = 8
STRIDE = 2**SCALES
MAPS = 1 + SCALES * ORIENTATIONS + ORIENTATIONS**2
"""Maps of one channel: 1 of order zero, 16 of order one, 64 of order two."""

_SIGMA = 0.8  # of the finest wavelet's envelope along its wave, pixels
_SLANT = 4 / ORIENTATIONS  # the envelope is this much narrower along the wave than across it
_REACH = 4  # pixels of the finest wavelet on either side of its centre
_FLOOR = 1e-3  # added to a length
_TINY = 1e-24
_CHUNK = 64  # images whose maps stay in the caches


class FilterBank(nn.Module):
    """Filters for images of one size, padded to h x w pixels, both multiples of four.

    A wavelet of scale j and orientation t is a Gaussian window of width 0.8 * 2^j along the wave
    and twice that across it, times exp(i xi u), xi = 3 pi / 4 / 2^j, less the multiple of the
    window that makes its sum zero. The low-pass is a Gaussian of width 1.6.

    State dicts leave the buffers out. `psi0` and `psi1`, of either scale, are float32
    [16, 1, k, k]: 8 real parts, then 8 imaginary. `rows0` and `rows1`, of either resolution,
    [H // 4, h or h / 2], smooth and sample down a column; `columns0` and `columns1` along a row.
    """

    psi0: Tensor
    psi1: Tensor
    rows0: Tensor
    rows1: Tensor
    columns0: Tensor
    columns1: Tensor

    def __init__(self, height: int, width: int) -> None:
        super().__init__()
        for scale in range(SCALES):
            psi = torch.stack([_morlet(scale, t) for t in range(ORIENTATIONS)])
            self._keep(f"psi{scale}", torch.cat([psi.real, psi.imag])[:, None])
        for name, n in (("rows", height), ("columns", width)):
            padded = ((n + STRIDE) // STRIDE + 1) * STRIDE
            for scale in range(SCALES):
                self._keep(f"{name}{scale}", _low_pass(padded, n, scale + 1))

    def _keep(self, name: str, value: Tensor) -> None:
        self.register_buffer(name, value.float(), persistent=False)

    def forward(self, planes: Tensor) -> Tensor:
        """Float images [B, H, W] -> their coefficients [B, 81, H // 4, W // 4]."""
        h, w = self.rows0.shape[1], self.columns0.shape[1]
        batch, height, width = planes.shape
        margin = (STRIDE, w - STRIDE - width, STRIDE, h - STRIDE - height)
        image = F.pad(planes[:, None], margin, mode="reflect")
        fine = _modulus(image, self.psi0, 1)
        second = _modulus(fine.reshape(-1, 1, h, w), self.psi1, 2)
        full = torch.cat([image, fine], 1)
        half = [_modulus(image, self.psi1, 2), second.reshape(batch, -1, h // 2, w // 2)]
        return torch.cat(
            [
                self.rows0 @ (full @ self.columns0.mT),
                self.rows1 @ (torch.cat(half, 1) @ self.columns1.mT),
            ],
            1,
        )


def unit_roots(coefficients: Tensor) -> Tensor:
    """Square roots of the coefficients [B, F], scaled to length 1 for each image by itself."""
    f = _root(coefficients.clamp_min(0))
    length: Tensor = f.norm(dim=1, keepdim=True)
    return f / (length + _FLOOR)


def scattering_features(images: Tensor) -> Tensor:
    """Scattering coefficients of images, flattened.

    Args:
        images: uint8 [B, C, H, W], H and W at least 5; pixel values are divided by 255.

    Returns:
        float32 [B, C * 81 * (H // 4) * (W // 4)].

    Raises:
        UserError: images of another type or too small.
    """
    if images.dtype != torch.uint8:
        raise UserError(f"scattering: images are {images.dtype}; accepted: uint8 [B, C, H, W]")
    return scattering_maps(images.float() / 255).flatten(1)


def scattering_maps(images: Tensor, filters: FilterBank | None = None) -> Tensor:
    """Scattering coefficients of images, as maps.

    S0 = x * phi, S1(j, t) = |x * psi_jt| * phi and S2(t, t') = ||x * psi_0t| * psi_1t'| * phi,
    each sampled at every fourth pixel (Bruna and Mallat 2013, equation 6). The image is continued
    by reflection.

    Args:
        images: float [B, C, H, W] from 0 to 1, H and W at least 5.
        filters: for the images' size and on their device; by default those of `filter_bank`.

    Returns:
        float32 [B, C * 81, H // 4, W // 4]; the maps of a channel are S0, S1 (j = 0, then j = 1)
        and S2 (t, then t').

    Raises:
        UserError: images that are too small or not of rank four.
    """
    if images.ndim != 4 or min(images.shape[2:]) < STRIDE + 1:
        given = list(images.shape)
        raise UserError(f"scattering: images are {given}; accepted: [B, C, H, W], at least 5x5")
    batch, channels, height, width = images.shape
    with torch.autocast(images.device.type, enabled=False):
        planes = images.float().reshape(batch * channels, height, width)
        filters = filters or filter_bank(height, width, images.device)
        # `torch.export` gets one piece: a split would fix the number of chunks.
        parts = (planes,) if torch.compiler.is_compiling() else planes.split(_CHUNK)
        maps = torch.cat([filters(part) for part in parts])
    return maps.reshape(batch, channels * MAPS, height // STRIDE, width // STRIDE)


def _modulus(maps: Tensor, psi: Tensor, stride: int) -> Tensor:
    """|maps * psi| with wrapped edges: [B, 1, h, w] -> [B, 8, h / stride, w / stride]."""
    reach = psi.shape[-1] // 2
    wrapped = F.pad(maps, (reach,) * 4, mode="circular")
    real, imaginary = F.conv2d(wrapped, psi, stride=stride).chunk(2, 1)
    return _root(torch.addcmul(real * real, imaginary, imaginary))


def _root(x: Tensor) -> Tensor:
    """Square roots, whose gradient is finite at zero too, as attacks and the generator need."""
    if not x.requires_grad:
        return x.sqrt_()
    return torch.where(x > _TINY, x.clamp_min(_TINY).sqrt(), 0)


@functools.lru_cache(maxsize=8)
def filter_bank(height: int, width: int, device: torch.device) -> FilterBank:
    """The filters for images of height x width pixels, computed once for each size and device."""
    return FilterBank(height, width).to(device)


def _morlet(scale: int, orientation: int) -> Tensor:
    """One wavelet, complex128 [k, k], in the order in which `conv2d` correlates."""
    sigma, xi = _SIGMA * 2**scale, 0.75 * math.pi / 2**scale
    angle = (ORIENTATIONS / 2 - 1 - orientation) * math.pi / ORIENTATIONS
    reach = _REACH * 2**scale
    place = torch.arange(reach, -reach - 1, -1, dtype=torch.float64)
    along = math.cos(angle) * place[:, None] + math.sin(angle) * place
    across = math.cos(angle) * place - math.sin(angle) * place[:, None]
    window = torch.exp(-(along**2 + (_SLANT * across) ** 2) / (2 * sigma**2))
    window /= 2 * math.pi * sigma**2 / _SLANT
    wave = torch.polar(window, xi * along)
    return wave - wave.sum() / window.sum() * window


def _low_pass(padded: int, length: int, resolution: int) -> Tensor:
    """A Gaussian and sampling at every fourth pixel as a matrix: float64 [length // 4, taps].

    Args:
        padded: pixels of the padded signal.
        length: pixels of the image in it, which begins at pixel four.
        resolution: 2 for a signal of which every second pixel was kept.
    """
    taps = padded // resolution
    index = torch.arange(taps, dtype=torch.float64)
    frequency = torch.where(index < taps / 2, index, index - taps) * 2 * math.pi / padded
    gain = torch.exp(-((_SIGMA * STRIDE / 2 * frequency) ** 2) / 2)
    place = STRIDE / resolution * (torch.arange(length // STRIDE, dtype=torch.float64) + 1)
    phase = frequency * resolution * (place[:, None, None] - index[:, None])
    return (gain * torch.cos(phase)).mean(-1)
