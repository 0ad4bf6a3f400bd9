"""The transcript of a run in two worlds whose teachers are both known: exact loss, and trials.

The questions (images, and the public part of each answer) are those of the run. The adversary knows
both teachers, so its best score is the log-likelihood ratio of the whole transcript. Answers that
are the same in both worlds tell nothing; the m others compose.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dpsd.attacks.statistics import Scores
from dpsd.privacy.accounting import compose_epsilon, gaussian_epsilon
from dpsd.privacy.events import VotesRelease
from dpsd.privacy.mechanisms.base import Answers, Mechanism
from dpsd.privacy.mechanisms.gaussian import Gaussian
from dpsd.privacy.mechanisms.graded_response import GradedResponse
from dpsd.privacy.mechanisms.group_response import GroupResponse
from dpsd.privacy.mechanisms.randomized_response import PureResponse, counted, other_width
from dpsd.privacy.mechanisms.votes import NoisyVotes, released
from dpsd.privacy.noise import NoiseSource

Floats = NDArray[np.float64]
_CELLS = 2**20
_SNAP = 1e-4
_CHUNK = 2_000_000
_SURE = 50.0  # the score of a transcript that only one world can give


@dataclass(frozen=True)
class PairLoss:
    """What a transcript tells of which of two teachers answered.

    Attributes:
        answers: in the transcript.
        differing: m, those whose distribution differs between the worlds.
        mu: of the Gaussian answers together.
        outcomes: for each kind of differing pure answer p(outcome) in either world, float64 [V]
            each, and how many answers are of this kind.
        cells: released counts that differ by one vote.
        two_cells: answers that differ in two counts (the others in one).
        sigma: of the noisy votes.
        open: an answer differs and nothing hides it.
    """

    answers: int
    differing: int
    mu: float = 0.0
    outcomes: tuple[tuple[Floats, Floats, int], ...] = ()
    cells: int = 0
    two_cells: int = 0
    sigma: float = 1.0
    open: bool = False


def pair_loss(mechanism: Mechanism, asked: Answers, world0: Tensor, world1: Tensor) -> PairLoss:
    """The loss of a transcript.

    Args:
        mechanism: that of the run.
        asked: the run's answers, of which only the public part enters: support, size, prior.
        world0: what the teacher says, float [B, K] probabilities or int64 [B, K] votes.
        world1: what the other teacher says.
    """
    rows = len(asked)
    if isinstance(mechanism, Gaussian):
        prior = None
        if asked.prior is not None:
            prior = asked.prior
            if asked.support is not None:
                prior = torch.zeros(rows, mechanism.classes).scatter_(1, asked.support, prior)
        v0, v1 = (mechanism.bounded(w, prior, asked.support)[0] for w in (world0, world1))
        gaps = (v0 - v1).square().sum(1)
        mu = math.sqrt(float(gaps.sum())) / mechanism.sigma
        return PairLoss(rows, int((gaps > 0).sum()), mu=mu)
    if isinstance(mechanism, NoisyVotes):
        if asked.support is not None:
            world0, world1 = (w.gather(1, asked.support) for w in (world0, world1))
        # Histograms that a threshold withheld tell nothing; its tests are not scored.
        world0, world1 = (w[released(asked)] for w in (world0, world1))
        moved = (world0 - world1).abs().sum(1)
        two = int((moved == 2).sum())
        return PairLoss(
            rows, int((moved > 0).sum()), cells=int(moved.sum()), two_cells=two,
            sigma=mechanism.sigma,
        )  # fmt: skip
    if isinstance(mechanism, GradedResponse):
        return _graded_loss(mechanism, rows, mechanism.code(world0), mechanism.code(world1))
    if isinstance(mechanism, PureResponse):
        return _pure_loss(mechanism, asked, world0.argmax(1), world1.argmax(1))
    differ = int((world0 != world1).any(1).sum())
    return PairLoss(rows, differ, open=differ > 0)


def merged(parts: Sequence[PairLoss]) -> PairLoss:
    """The loss of several transcripts of one pair and one mechanism together."""
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

    It is exact for this pair of teachers and these questions, and no guarantee for another pair.
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


def draw_transcripts(loss: PairLoss, trials: int, seed: int) -> tuple[Scores, Scores]:
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
        ratio = _ratio(p0, p1)
        for world, p in enumerate((p0, p1)):
            worlds[world] = worlds[world] + rng.multinomial(n, p / p.sum(), trials) @ ratio
    return worlds[0].round(9), worlds[1].round(9)


def _pure_loss(mechanism: Mechanism, asked: Answers, class0: Tensor, class1: Tensor) -> PairLoss:
    rows = len(asked)
    differ = class0 != class1
    kinds: dict[tuple[float, ...], int] = {}
    for part, c0, c1 in _parts(asked, class0, class1, differ):
        p0, p1 = outcome_probabilities(mechanism, part, c0), outcome_probabilities(
            mechanism, part, c1
        )  # fmt: skip
        order = np.lexsort((p0, _ratio(p0, p1)), axis=1)
        p0, p1 = (np.take_along_axis(p, order, 1).round(9) for p in (p0, p1))
        found, counts = np.unique(np.concatenate([p0, p1], 1), axis=0, return_counts=True)
        for row, n in zip(found.tolist(), counts.tolist(), strict=True):
            kinds[tuple(row)] = kinds.get(tuple(row), 0) + n
    outcomes = []
    for key, n in kinds.items():
        p = np.array(key).reshape(2, -1)
        if not np.array_equal(p[0], p[1]):
            outcomes.append((p[0], p[1], n))
    return PairLoss(rows, sum(n for *_, n in outcomes), outcomes=tuple(outcomes))


def _graded_loss(mechanism: GradedResponse, rows: int, code0: Tensor, code1: Tensor) -> PairLoss:
    """Answers whose true codes differ: either code, or one of the others."""
    m = int((code0 != code1).sum())
    if not m:
        return PairLoss(rows, 0)
    lie = other_width(mechanism.epsilon, mechanism.size) / 2**62
    others = (mechanism.size - 2) * lie
    told = 1 - lie - others
    p0, p1 = np.array([told, lie, others]), np.array([lie, told, others])
    return PairLoss(rows, m, outcomes=((p0, p1, m),))


def outcome_probabilities(mechanism: Mechanism, asked: Answers, classes: Tensor) -> Floats:
    """P(outcome) of each answer if the teacher's class is the given one, float64 [B, V].

    Outcomes are yes and no for groups, else the labels; those that cannot come out have 0.
    """
    binary = isinstance(mechanism, GroupResponse)
    outcomes = 2 if binary else mechanism.classes
    columns = []
    for value in range(outcomes):
        said = replace(asked, values=torch.full((len(asked),), value))
        columns.append(mechanism.log_likelihood(said).gather(1, classes[:, None])[:, 0])
    p = torch.stack(columns, 1).double().exp()
    if not binary and asked.support is not None:
        p = p * counted(asked, mechanism.classes)
    return (p / p.sum(1, keepdim=True)).numpy()


def _parts(
    asked: Answers, class0: Tensor, class1: Tensor, differ: Tensor
) -> Iterator[tuple[Answers, Tensor, Tensor]]:
    for rows in differ.nonzero()[:, 0].split(50_000):
        support = None if asked.support is None else asked.support[rows]
        size = None if asked.size is None else asked.size[rows]
        yield Answers(asked.values[rows], support, size), class0[rows], class1[rows]


def _composed(outcomes: tuple[tuple[Floats, Floats, int], ...], delta: float) -> float:
    """Epsilon at delta of the loss log p1 / p0 under world 1, composed by FFT on a grid."""
    largest = max(float(np.abs(_ratio(p0, p1)).max()) for p0, p1, _ in outcomes)
    m = sum(n for *_, n in outcomes)
    steps = max(1, min(10_000, _CELLS // (4 * m)))
    cell = largest / steps
    size = 2 ** math.ceil(math.log2(2 * m * steps + 2))
    spectrum = np.ones(size // 2 + 1, dtype=np.complex128)
    for p0, p1, n in outcomes:
        places = np.ceil(_ratio(p0, p1) / cell - _SNAP).astype(np.int64)
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


def _ratio(p0: Floats, p1: Floats) -> Floats:
    """Log p1 / p0; 0 where an outcome cannot come out."""
    some = (p0 > 0) & (p1 > 0)
    return np.where(some, np.log(np.where(some, p1, 1.0) / np.where(some, p0, 1.0)), 0.0)
