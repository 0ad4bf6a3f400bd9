"""Two worlds of 20 teachers and 50 answers; one teacher differs on all 50. Unit: one record."""

import math

import numpy as np
import pytest
import torch
from bounds import epsilon_bound, mu_bound

from dpsd.privacy.accounting import calibrate_votes
from dpsd.privacy.mechanisms.votes import NoisyVotes
from dpsd.privacy.noise import NoiseSource

TEACHERS, ANSWERS, RUNS, CLASSES, DELTA = 20, 50, 10_000, 3, 1e-5
STRICT, LOOSE = 1e-6, 0.05


def worlds():
    """Votes of both worlds, int64 [50, 3]: teacher 0 says a class, or the next one."""
    said = np.random.default_rng(0).integers(0, CLASSES, (TEACHERS, ANSWERS))
    other = said.copy()
    other[0] = (said[0] + 1) % CLASSES
    return tuple(
        torch.from_numpy(np.stack([(s == c).sum(0) for c in range(CLASSES)], 1))
        for s in (said, other)
    )


def scores(sigma):
    """The sum over all answers along the known difference, less its mean over both worlds."""
    m = NoisyVotes(CLASSES, TEACHERS, sigma)
    votes = worlds()
    along = (votes[1] - votes[0]).double()
    middle = float((along * (votes[0] + votes[1])).sum()) / 2
    drawn = []
    for name, v in zip(("one", "two"), votes, strict=True):
        answers = m.release(v.repeat(RUNS, 1), None, NoiseSource(f"{name} {sigma}".encode()))
        runs = answers.values.double().view(RUNS, ANSWERS, CLASSES)
        drawn.append(((runs * along).sum((1, 2)) - middle).numpy())
    return drawn


@pytest.mark.parametrize("epsilon", [1.0, 3.0])
def test_fifty_answers_stay_below_the_stated_epsilon(epsilon):
    sigma, _ = calibrate_votes(epsilon, DELTA, ANSWERS)
    world0, world1 = scores(sigma)
    spread = sigma * math.sqrt(2 * ANSWERS)
    for threshold in (-2 * spread, -spread, 0.0, spread, 2 * spread):
        assert epsilon_bound(world0, world1, threshold, DELTA, STRICT) <= epsilon
    mu = math.sqrt(2 * ANSWERS) / sigma  # of the continuous Gaussian, which it nearly is
    assert mu_bound(world0, world1, alpha=STRICT) <= mu
    assert mu_bound(world0, world1, alpha=LOOSE) >= 0.7 * mu


@pytest.mark.parametrize("epsilon", [1.0, 3.0])
def test_noise_for_one_answer_instead_of_fifty_is_caught(epsilon):
    leaking, _ = calibrate_votes(epsilon, DELTA, 1)
    assert epsilon_bound(*scores(leaking), delta=DELTA, alpha=STRICT) > epsilon


def test_the_worlds_differ_in_one_teachers_votes():
    one, two = worlds()
    assert ((one - two).abs().sum(1) == 2).all()
    assert (one.sum(1) == TEACHERS).all() and (two.sum(1) == TEACHERS).all()
