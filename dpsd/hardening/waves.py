"""Whether a suspect's probabilities carry the wave of a key (CosWM).

Charette et al. 2022 look for a peak at the keyed frequency in the suspect's answers. Here the
owner's own answers are regressed out first, since a copy has them and the wave in common, and the
phase is known. Random keys give the null distribution for the same suspect and the same images.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dpsd.defences.cosine import wave
from dpsd.hardening.statistics import key_p_value
from dpsd.models.frozen import Shape

_SMALLEST = 1e-4
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class WaveTest:
    """How much of the key's wave there is.

    Attributes:
        correlation: of what the suspect answers beyond the owner's model, with the wave.
        p_value: closed form.
        exact_p_value: of the permutation of keys.
        keys: random keys.
        images: that were asked.
    """

    correlation: float
    p_value: float
    exact_p_value: float
    keys: int
    images: int


def wave_test(
    suspect: Tensor,
    owner: Tensor,
    images: Tensor,
    key: bytes,
    frequency: float,
    *,
    keys: int = 500,
    seed: int = 0,
) -> WaveTest:
    """P-value of a suspect's answers under "it does not depend on the key".

    Args:
        suspect: its probabilities, float [N, K].
        owner: those of the owner's model without the wave, float [N, K].
        images: uint8 [N, C, H, W], the same questions to both.
        key: of the defence `cosine`.
        frequency: of the defence.
        keys: random keys that the owner's is compared with.
        seed: of the random keys.

    Raises:
        UserError: fewer than 10 random keys.
    """
    classes = suspect.shape[1]
    channels, height, width = images.shape[1:]
    residual = _residuals(suspect, owner)
    pixels = images.flatten(1).float()
    rng = np.random.default_rng(seed)

    def correlations(one: bytes) -> tuple[float, float]:
        """With the wave of a key, and with the same wave a quarter later."""
        return _correlations(one, (channels, height, width), classes, frequency, pixels, residual)

    mine = correlations(key)[0]
    others = [c for _ in range(keys) for c in correlations(rng.bytes(16))]
    closed, exact = key_p_value(mine, others)
    return WaveTest(mine, closed, exact, keys, len(images))


def _correlations(
    key: bytes, shape: Shape, classes: int, frequency: float, pixels: Tensor,
    residual: Callable[[int], Floats],
) -> tuple[float, float]:  # fmt: skip
    drawn = wave(key, shape, classes)
    angle = (frequency * drawn.place_of_pixels(pixels) + drawn.phase).numpy()
    r = residual(drawn.target)
    return _correlation(np.cos(angle), r), _correlation(np.sin(angle), r)


def _correlation(signal: Floats, residual: Floats) -> float:
    """Of a signal with residuals of mean 0 and length 1."""
    spread = float(signal.std()) * math.sqrt(len(signal))
    return float((signal - signal.mean()) @ residual) / spread if spread > 0 else 0.0


def _residuals(suspect: Tensor, owner: Tensor) -> Callable[[int], Floats]:
    """The suspect's log odds of a class, less what is linear in the owner's; of length 1."""
    known = owner.double().clamp(_SMALLEST, 1).log()
    with_constant = torch.cat([known, torch.ones(len(known), 1).double()], 1)
    basis, values, _ = np.linalg.svd(with_constant.numpy(), full_matrices=False)
    basis = basis[:, values > values[0] * 1e-9]
    odds = torch.logit(suspect.double(), _SMALLEST).numpy()
    left = odds - basis @ (basis.T @ odds)
    left /= np.maximum(np.linalg.norm(left, axis=0), 1e-12)
    return lambda target: left[:, target]
