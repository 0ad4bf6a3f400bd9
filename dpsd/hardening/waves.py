"""Whether a suspect's probabilities carry the waves of a key (CosWM).

Charette et al. 2022 look for a peak at the keyed frequency in the suspect's answers. Here the
owner's own answers are regressed out first, since a copy has them and the waves in common, and the
phases are known. Random keys give the null distribution for the same suspect and the same images.
Waves are smooth, and so are most errors of a copy, so that every key finds something. Components
that waves of any key share are therefore weighed down, as a whitening matched filter does.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from dpsd.defences.cosine import MOST, waves
from dpsd.hardening.statistics import key_p_value, permutation_p_value

_SMALLEST, _CUT_OFF = 1e-9, 1e-2
_FLOOR = 0.05  # of a component's variance, as a share of the largest one
_COLUMNS = 1_000  # waves of random keys whose variance is weighed down


@dataclass(frozen=True)
class WaveTest:
    """How much of the key's waves there is.

    Attributes:
        correlation: of what the suspect answers beyond the owner's model with the waves, the mean
            over classes; nothing is weighed down.
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
    classes, (channels, height, width) = suspect.shape[1], images.shape[1:]
    residuals, pixels = _residuals(suspect, owner), images.flatten(1).double()
    rng = np.random.default_rng(seed)

    def signals(one: bytes, count: int = classes) -> tuple[Tensor, Tensor]:
        return waves(one, (channels, height, width), count).signals(pixels, frequency)

    own = min(classes, MOST)
    others = [torch.cat(signals(rng.bytes(16), own), 1) for _ in range(-(-_COLUMNS // (2 * own)))]
    white = _whitened(residuals, torch.cat(others, 1))
    mine = signals(key)[0]
    pairs = [[_correlation(s, white) for s in signals(rng.bytes(16))] for _ in range(keys)]
    score = _correlation(mine, white)
    closed = key_p_value(score, [found for pair in pairs for found in pair])
    exact = permutation_p_value(score, [now for now, _ in pairs])
    return WaveTest(_correlation(mine, residuals), closed, exact, keys, len(images))


def _correlation(signals: Tensor, residuals: Tensor) -> float:
    """Of signals [N, K] with residuals [N, K], the mean over classes.

    It is a correlation where each class's residuals have mean 0 and length 1, else a score.
    """
    centred = signals - signals.mean(0)
    spread = centred.norm(dim=0).clamp_min(1e-12)
    return float(((centred * residuals).sum(0) / spread).mean())


def _whitened(residuals: Tensor, others: Tensor) -> Tensor:
    """Residuals [N, K] with what waves have in common weighed down.

    The part of the residuals along a principal component of other keys' waves [N, M] is divided by
    the root of the component's variance plus a floor. The largest variance counts as 1.
    """
    others = others - others.mean(0)
    values, turn = torch.linalg.eigh(others.T @ others)
    largest = values[-1].clamp_min(1e-300)  # images without a difference have no waves
    kept = values > largest * 1e-9
    values, basis = values[kept], others @ turn[:, kept] / values[kept].sqrt()
    weights = (values / largest + _FLOOR).rsqrt() - _FLOOR**-0.5
    white: Tensor = residuals * _FLOOR**-0.5 + basis @ (weights[:, None] * (basis.T @ residuals))
    return white


def _residuals(suspect: Tensor, owner: Tensor) -> Tensor:
    """The suspect's logs less what follows from the owner's: float64 [N, K], each 0 or of length 1.

    What a copy learned is the log of a probability to which the waves have been added, so that
    small ones are cut off. Thus the owner's logs enter whole and cut off, and its probabilities.
    The likeliest class is left out: its probability hides its wave. The mean over classes says how
    sure the suspect is, and no wave.
    """
    own = owner.double()
    known = [own.clamp(_SMALLEST, 1).log(), own.clamp(_CUT_OFF, 1).log(), own]
    constant = torch.ones(len(own), 1).double()
    basis, values, _ = torch.linalg.svd(torch.cat([*known, constant], 1), full_matrices=False)
    basis = basis[:, values > values[0] * 1e-9]
    logs = suspect.double().clamp_min(_SMALLEST).log()
    logs = logs - logs.mean(1, keepdim=True)
    seen = torch.ones_like(own).scatter_(1, own.argmax(1, keepdim=True), 0)
    left = (logs - basis @ (basis.T @ logs)) * seen
    left = left - left.sum(0) / seen.sum(0).clamp_min(1) * seen
    whole: Tensor = left / left.norm(dim=0).clamp_min(1e-12)
    return whole
