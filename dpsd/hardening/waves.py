"""Whether a suspect's probabilities carry the waves of a key (CosWM).

Charette et al. 2022 look for a peak at the keyed frequency in the suspect's answers. Here the
owner's own answers are regressed out first, since a copy has them and the waves in common, and the
phases are known. Random keys give the null distribution for the same suspect and the same images.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from dpsd.defences.cosine import waves
from dpsd.hardening.statistics import key_p_value, permutation_p_value

_SMALLEST, _CUT_OFF = 1e-9, 1e-2


@dataclass(frozen=True)
class WaveTest:
    """How much of the key's waves there is.

    Attributes:
        correlation: of what the suspect answers beyond the owner's model with the waves, the mean
            over classes.
        p_value: closed form, from two scores of each random key.
        exact_p_value: of the permutation of keys, from one score of each; at least 1 / (keys + 1).
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
    residuals, pixels = _residuals(suspect, owner), images.flatten(1).double()
    rng = np.random.default_rng(seed)

    def correlations(one: bytes) -> tuple[float, float]:
        """With the waves of a key, and with the same waves a quarter later."""
        drawn = waves(one, (channels, height, width), classes)
        now, later = drawn.signals(pixels, frequency)
        return _correlation(now, residuals), _correlation(later, residuals)

    mine = correlations(key)[0]
    others = [correlations(rng.bytes(16)) for _ in range(keys)]
    closed = key_p_value(mine, [score for pair in others for score in pair])
    exact = permutation_p_value(mine, [now for now, _ in others])
    return WaveTest(mine, closed, exact, keys, len(images))


def _correlation(signals: Tensor, residuals: Tensor) -> float:
    """Of signals [N, K] with residuals of mean 0 and length 1, the mean over classes."""
    centred = signals - signals.mean(0)
    spread = centred.norm(dim=0).clamp_min(1e-12)
    return float(((centred * residuals).sum(0) / spread).mean())


def _residuals(suspect: Tensor, owner: Tensor) -> Tensor:
    """The suspect's log odds, less what follows from the owner's: float64 [N, K] of length 1.

    What a copy learned is the log of a probability to which the waves have been added, so that
    small ones are cut off. Thus the owner's logs enter whole and cut off, and its probabilities.
    """
    own = owner.double()
    known = [own.clamp(_SMALLEST, 1).log(), own.clamp(_CUT_OFF, 1).log(), own]
    constant = torch.ones(len(own), 1).double()
    basis, values, _ = torch.linalg.svd(torch.cat([*known, constant], 1), full_matrices=False)
    basis = basis[:, values > values[0] * 1e-9]
    odds = torch.logit(suspect.double(), _SMALLEST)
    left = odds - basis @ (basis.T @ odds)
    whole: Tensor = left / left.norm(dim=0).clamp_min(1e-12)
    return whole
