"""What released vote histograms say about the class with the most votes: post-processing alone.

The model is a mixture over pairs of shares of the votes. If class c leads, it holds the first
share, some other class holds the second, and the rest is even. Expectation maximisation fits the
mixture's weights to the released histograms. Nothing else of the teachers enters.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

_ITERATIONS = 60
_CHUNK = 2**21  # cells of [rows, pairs, classes] at a time
_PSEUDO = 1.0  # rows' worth of evenly spread weight


@dataclass(frozen=True)
class VoteProfile:
    """Votes of the first, the second and each other class, with their frequencies.

    Attributes:
        first: votes, float64 [G].
        second: votes, float64 [G].
        rest: votes of each other class, float64 [G].
        log_weight: log frequency, float64 [G].
        variance: of a released count around `first` or `second`, in votes squared.
    """

    first: Tensor
    second: Tensor
    rest: Tensor
    log_weight: Tensor
    variance: float


def fit_profile(
    values: Tensor, support: Tensor | None, *, sigma: float, voters: int, classes: int
) -> VoteProfile:
    """Fit the frequencies of (first, second) shares to released histograms.

    Args:
        values: int64 [B, k].
        support: int64 [B, k], the classes of the counts; None: all, in order.
        sigma: of the noise, in votes.
        voters: n.
        classes: K.
    """
    profile = _grid(sigma, voters, classes)
    if not len(values):
        return profile
    by_pair = torch.cat([
        (part := _scores(v, s, profile, classes)).logsumexp(2) - math.log(part.shape[2])
        for v, s in _chunks(values, support, len(profile.first) * classes)
    ])  # fmt: skip
    log_weight = profile.log_weight
    even = _PSEUDO / len(log_weight)
    for _ in range(_ITERATIONS):
        shares = (by_pair + log_weight).softmax(1).sum(0) + even
        log_weight = (shares / shares.sum()).log()
    return VoteProfile(profile.first, profile.second, profile.rest, log_weight, profile.variance)


def profile_likelihood(
    values: Tensor, support: Tensor | None, profile: VoteProfile, *, classes: int
) -> Tensor:
    """Log p(histogram | c leads) under a profile, float32 [B, K], the largest of a row 0."""
    parts = [
        (_scores(v, s, profile, classes) + profile.log_weight[:, None]).logsumexp(1)
        for v, s in _chunks(values, support, len(profile.first) * classes)
    ]
    scores = torch.cat(parts)
    return (scores - scores.amax(1, keepdim=True)).float()


def _grid(sigma: float, voters: int, classes: int) -> VoteProfile:
    """Pairs of shares as fine as the noise lets them be told apart, all equally frequent."""
    step = min(0.1, max(0.025, 2 * sigma / voters))
    pairs = []
    for share in _spaced(1 / classes, 1.0, step):
        low, high = (1 - share) / (classes - 1), min(share, 1 - share)
        pairs += [(share, second) for second in _spaced(low, max(low, high), step)]
    first, second = (torch.tensor(x, dtype=torch.float64) for x in zip(*pairs, strict=True))
    rest = (1 - first - second).clamp_min(0) / max(1, classes - 2)
    even = torch.full((len(pairs),), -math.log(len(pairs)), dtype=torch.float64)
    variance = sigma**2 + (step * voters) ** 2 / 12
    return VoteProfile(first * voters, second * voters, rest * voters, even, variance)


def _spaced(low: float, high: float, step: float) -> list[float]:
    n = math.ceil((high - low) / step - 1e-9)
    return [low + (high - low) * i / max(1, n) for i in range(n + 1)]


def _scores(values: Tensor, support: Tensor | None, p: VoteProfile, classes: int) -> Tensor:
    """Log p(histogram | c leads with this pair), float64 [B, G, K]; unseen counts say nothing."""
    seen = values.double()[:, None]
    loose = p.variance + p.rest.square()  # the rest is even on average only
    plain = _log_normal(seen, p.rest[:, None], loose[:, None])
    tight = torch.full_like(loose, p.variance)[:, None]
    lead = _log_normal(seen, p.first[:, None], tight) - plain
    follow = _log_normal(seen, p.second[:, None], tight) - plain
    if support is not None:
        shape = (len(values), len(p.first), classes)
        where = support[:, None].expand(-1, len(p.first), -1)
        lead = lead.new_zeros(shape).scatter_(2, where, lead)
        follow = follow.new_zeros(shape).scatter_(2, where, follow)
    others = _sum_of_others(follow) - math.log(classes - 1)
    return plain.sum(2, keepdim=True) + lead + others


def _sum_of_others(x: Tensor) -> Tensor:
    """Log of the sum of exp over all classes but the own one, without cancellation."""
    nothing = torch.full_like(x[..., :1], -math.inf)
    before = torch.cat([nothing, x.logcumsumexp(-1)[..., :-1]], -1)
    after = torch.cat([nothing, x.flip(-1).logcumsumexp(-1)[..., :-1]], -1).flip(-1)
    return torch.logaddexp(before, after)


def _log_normal(x: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
    return -(x - mean).square() / (2 * variance) - variance.log() / 2


def _chunks(
    values: Tensor, support: Tensor | None, width: int
) -> list[tuple[Tensor, Tensor | None]]:
    rows = max(1, _CHUNK // width)
    parts = values.split(rows)
    if support is None:
        return [(part, None) for part in parts]
    return list(zip(parts, support.split(rows), strict=True))
