"""A fixed two-dimensional wavelet scattering transform: features that are public and untrained.

Second order, J = 2 scales, L = 8 orientations, Morlet wavelets (Bruna and Mallat, *Invariant
Scattering Convolution Networks*, 2013). For a grey image of 28 x 28 it gives 81 maps of 7 x 7, the
features on which linear models trained with DP-SGD do best (Tramèr and Boneh, arXiv 2011.11660).
Nothing in it depends on any data, and each image is transformed by itself.
"""

import functools
import math
from dataclasses import dataclass

import torch
from torch import Tensor
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
_CHUNK = 64  # images whose maps stay in the caches


@dataclass(frozen=True)
class FilterBank:
    """Filters for one image size, which is padded to h x w pixels, both multiples of four."""

    psi: tuple[Tensor, Tensor]
    """Morlet wavelets of both scales: float32 [16, 1, k, k], 8 real parts, then 8 imaginary."""
    rows: tuple[Tensor, Tensor]
    """Low-pass and sampling down a column, at full and half resolution: [H // 4, h or h / 2]."""
    columns: tuple[Tensor, Tensor]
    """The same along a row."""


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


def scattering_maps(images: Tensor) -> Tensor:
    """Scattering coefficients of images, as maps.

    S0 = x * phi, S1(j, t) = |x * psi_jt| * phi and S2(t, t') = ||x * psi_0t| * psi_1t'| * phi,
    each sampled at every fourth pixel (Bruna and Mallat 2013, equation 6). The image is continued
    by reflection.

    Args:
        images: float [B, C, H, W] from 0 to 1, H and W at least 5.

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
        bank = filter_bank(height, width, images.device)
        parts = [_scatter(part, bank) for part in planes.split(_CHUNK)]
    return torch.cat(parts).reshape(batch, channels * MAPS, height // STRIDE, width // STRIDE)


def _scatter(planes: Tensor, bank: FilterBank) -> Tensor:
    """[B, H, W] -> [B, 81, H // 4, W // 4]."""
    h, w = bank.rows[0].shape[1], bank.columns[0].shape[1]
    height, width = planes.shape[1:]
    margin = (STRIDE, w - STRIDE - width, STRIDE, h - STRIDE - height)
    image = F.pad(planes[:, None], margin, mode="reflect")
    fine = _modulus(image, bank.psi[0], 1)
    second = _modulus(fine.reshape(-1, 1, h, w), bank.psi[1], 2)
    second = second.reshape(len(planes), -1, h // 2, w // 2)
    full = torch.cat([image, fine], 1)
    half = torch.cat([_modulus(image, bank.psi[1], 2), second], 1)
    return torch.cat(
        [bank.rows[r] @ (u @ bank.columns[r].mT) for r, u in enumerate((full, half))], 1
    )


def _modulus(maps: Tensor, psi: Tensor, stride: int) -> Tensor:
    """|maps * psi| with wrapped edges: [B, 1, h, w] -> [B, 8, h / stride, w / stride]."""
    reach = psi.shape[-1] // 2
    wrapped = F.pad(maps, (reach,) * 4, mode="circular")
    real, imaginary = F.conv2d(wrapped, psi, stride=stride).chunk(2, 1)
    return torch.addcmul(real * real, imaginary, imaginary).sqrt_()


@functools.lru_cache(maxsize=8)
def filter_bank(height: int, width: int, device: torch.device) -> FilterBank:
    """The filters for images of height x width pixels.

    A wavelet of scale j and orientation t is a Gaussian window of width 0.8 * 2^j along the wave
    and twice that across it, times exp(i xi u), xi = 3 pi / 4 / 2^j, less the multiple of the
    window that makes its sum zero. The low-pass is a Gaussian of width 1.6.
    """
    sizes = [((n + STRIDE) // STRIDE + 1) * STRIDE for n in (height, width)]
    fine, coarse = (
        torch.stack([_morlet(scale, t) for t in range(ORIENTATIONS)]) for scale in range(SCALES)
    )
    psi = [torch.cat([p.real, p.imag])[:, None].float().to(device) for p in (fine, coarse)]
    (rows, low_rows), (columns, low_columns) = (
        [_low_pass(padded, n, resolution).float().to(device) for resolution in (1, 2)]
        for padded, n in zip(sizes, (height, width), strict=True)
    )
    return FilterBank((psi[0], psi[1]), (rows, low_rows), (columns, low_columns))


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
