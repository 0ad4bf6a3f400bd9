"""The transcript of a run in two worlds whose teachers are both known: exact loss, and trials.

The questions (images, and the public part of each answer) are those of the run. The adversary knows
both teachers, so its best score is the log-likelihood ratio of the whole transcript. Answers that
have the same distribution in both worlds show nothing; the m others compose.
"""

import math
from collections.abc import Sequence

import numpy as np

from dpsd.attacks.statistics import Floats
from dpsd.privacy.accounting import compose_epsilon, gaussian_epsilon
from dpsd.privacy.events import VotesRelease
from dpsd.privacy.mechanisms.pair_loss import PairLoss, outcome_ratio
from dpsd.privacy.noise import NoiseSource

_CELLS = 2**20
_SNAP = 1e-4
_CHUNK = 2_000_000
_SURE = 50.0  # the score of a transcript that only one world can give


def merged(parts: Sequence[PairLoss]) -> PairLoss:
    """The joint loss of several transcripts of one pair and one mechanism."""
    kinds: dict[tuple[bytes, bytes], tuple[Floats, Floats, int]] = {}
    for p0, p1, n in (kind for part in parts for kind in part.outcomes):
        key = (p0.tobytes(), p1.tobytes())
        kinds[key] = (p0, p1, n + (kinds[key][2] if key in kinds else 0))
    return PairLoss(
        answers=sum(p.answers for p in parts),
        differing=sum(p.differing for p in parts),
        mu=math.sqrt(sum(p.mu**2 for p in parts)),
        outcomes=tuple(kinds.values()),
        cells=sum(p.cells for p in parts),
        two_cells=sum(p.two_cells for p in parts),
        sigma=parts[0].sigma if parts else 1.0,
        open=any(p.open for p in parts),
    )


def exact_epsilon(loss: PairLoss, delta: float) -> float:
    """The pair's own epsilon at delta: the m-fold loss distribution, losses of a grid rounded up.

    It is exact for this pair of teachers and these questions. It is no guarantee for another pair.
    """
    if loss.open:
        return math.inf
    if loss.cells:
        one = loss.differing - loss.two_cells
        counts = [(VotesRelease(loss.sigma), loss.two_cells), (VotesRelease(loss.sigma, 1), one)]
        return compose_epsilon(counts, delta)
    if loss.mu:
        return gaussian_epsilon(loss.mu, delta)
    if not loss.outcomes:
        return 0.0
    swapped = tuple((p1, p0, n) for p0, p1, n in loss.outcomes)
    return max(_composed(loss.outcomes, delta), _composed(swapped, delta))


def draw_transcripts(loss: PairLoss, trials: int, seed: int) -> tuple[Floats, Floats]:
    """Log-likelihood ratios of so many transcripts in world 0 and in world 1, float64 [trials]."""
    rng, noise = np.random.default_rng(seed), NoiseSource(f"transcripts {seed}".encode())
    if loss.open:
        return np.full(trials, -_SURE), np.full(trials, _SURE)
    if loss.cells:
        sums = np.zeros((2, trials))
        step = max(1, _CHUNK // loss.cells)
        for world in (0, 1):
            for at in range(0, trials, step):
                n = min(step, trials - at)
                total = noise.discrete_gaussians((n, loss.cells), loss.sigma).sum(1)
                sums[world, at : at + n] = total
        half, variance = loss.cells / 2, loss.sigma**2
        return (sums[0] - half) / variance, (sums[1] + half) / variance
    mu = loss.mu
    worlds = [noise.normals((trials,)) * mu + sign * mu**2 / 2 for sign in (-1, 1)]
    for p0, p1, n in loss.outcomes:
        ratio = outcome_ratio(p0, p1)
        for world, p in enumerate((p0, p1)):
            worlds[world] = worlds[world] + rng.multinomial(n, p / p.sum(), trials) @ ratio
    return worlds[0].round(9), worlds[1].round(9)


def _composed(outcomes: tuple[tuple[Floats, Floats, int], ...], delta: float) -> float:
    """Epsilon at delta of the loss log p1 / p0 under world 1, composed by FFT on a grid."""
    largest = max(float(np.abs(outcome_ratio(p0, p1)).max()) for p0, p1, _ in outcomes)
    m = sum(n for *_, n in outcomes)
    steps = max(1, min(10_000, _CELLS // (4 * m)))
    cell = largest / steps
    size = 2 ** math.ceil(math.log2(2 * m * steps + 2))
    spectrum = np.ones(size // 2 + 1, dtype=np.complex128)
    for p0, p1, n in outcomes:
        places = np.ceil(outcome_ratio(p0, p1) / cell - _SNAP).astype(np.int64)
        mass = np.bincount(places % size, weights=p1, minlength=size)
        spectrum *= np.fft.rfft(mass) ** n
    mass = np.clip(np.fft.irfft(spectrum, size), 0, None)
    mass = np.roll(mass, size // 2)
    losses = (np.arange(size) - size // 2) * cell
    kept = mass > 1e-18
    losses, mass = losses[kept], mass[kept]

    def delta_at(epsilon: float) -> float:
        above = losses > epsilon
        return float((mass[above] * -np.expm1(epsilon - losses[above])).sum())

    low, high = 0.0, float(losses.max(initial=0.0))
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if delta_at(middle) > delta else (low, middle)
    return high
