"""Randomised response over (first class, second class, grade of their distance)."""

import itertools
import math

import numpy as np
import pytest
import torch
from bounds import epsilon_bound
from oracles import plan

from dpsd.attacks.audit.mechanism import audit_mechanism
from dpsd.errors import UserError
from dpsd.privacy.events import PureRelease
from dpsd.privacy.mechanisms.base import Answers
from dpsd.privacy.mechanisms.graded_response import GradedResponse, least_epsilon
from dpsd.privacy.noise import NoiseSource

K, EPSILON = 4, 8.0


def mechanism(epsilon=EPSILON, classes=K):
    return GradedResponse(classes, epsilon)


def alphabet(m):
    return m.classes * (m.classes - 1) * m.grades


def test_as_many_grades_as_leave_the_truth_its_probability():
    for epsilon, classes in itertools.product([4.0, 6.0, 8.0, 10.0], [3, 4, 10]):
        m = mechanism(epsilon, classes)
        kept = [
            math.exp(epsilon) / (math.exp(epsilon) + classes * (classes - 1) * g - 1)
            for g in range(1, 17)
        ]
        assert m.grades == sum(p >= 0.95 for p in kept)


@pytest.mark.parametrize("epsilon", [5.6, EPSILON])
def test_every_answer_has_the_stated_probability(epsilon):
    m, rows = mechanism(epsilon), 200_000
    teacher = torch.tensor([0.2, 0.5, 0.05, 0.25]).expand(rows, -1)
    values = m.release(teacher, None, NoiseSource(b"graded")).values.numpy()
    size = alphabet(m)
    # by hand: first 1, second 3, which is the third of the others, log 2 in the grades of 0.5
    code = (1 * 3 + 2) * m.grades + min(1, m.grades - 1)
    truth = math.exp(epsilon) / (math.exp(epsilon) + size - 1)
    share = np.bincount(values, minlength=size) / rows
    assert abs(share[code] - truth) < 5 * math.sqrt(truth * (1 - truth) / rows)
    lie = (1 - truth) / (size - 1)
    others = np.delete(share, code)
    assert np.abs(others - lie).max() < 6 * math.sqrt(lie / rows)


def test_vectors_stand_for_their_answers():
    m = mechanism()
    vectors = m.vectors(torch.arange(alphabet(m)))
    assert torch.allclose(vectors.sum(1), torch.ones(len(vectors), dtype=torch.float64))
    code = m.code(vectors.float())
    assert torch.equal(code, torch.arange(alphabet(m)))  # each one is answered by itself


def test_log_likelihood_is_the_expected_vector():
    m = mechanism(5.6)
    size = alphabet(m)
    vectors = m.vectors(torch.arange(size)).numpy()
    truth = math.exp(5.6) / (math.exp(5.6) + size - 1)
    chance = np.full((size, size), (1 - truth) / (size - 1))  # answer, true code
    np.fill_diagonal(chance, truth)
    expected = chance @ vectors  # Bayes with equal codes: rows of `chance` sum to one
    got = m.log_likelihood(Answers(torch.arange(size))).double().exp().numpy()
    assert np.abs(got - expected).max() < 1e-6


@pytest.mark.parametrize("factor", [1.0, 2.0])
def test_audit_keeps_epsilon_and_catches_a_doubled_one(factor):
    claimed = 4.6
    m = mechanism(claimed * factor, 3)
    worlds = torch.tensor([[0.9, 0.05, 0.05], [0.05, 0.05, 0.9]], dtype=torch.float64)
    s = audit_mechanism(
        m, worlds[0], worlds[1], torch.full((3,), 1 / 3), draws=100_000, noise=NoiseSource(b"a")
    )
    bound = epsilon_bound(s.world0, s.world1, alpha=1e-6)
    assert (bound <= claimed) == (factor == 1.0)
    assert m.event == PureRelease(claimed * factor)


def test_too_small_an_epsilon_is_refused_in_one_line():
    with pytest.raises(UserError, match=r"privacy.epsilon: 1 per ask; accepted .* from 5\.34"):
        plan(ask="graded", epsilon=1.0)
    assert least_epsilon(4) == pytest.approx(math.log(11 * 19))
    assert plan(ask="graded", epsilon=5.5).mechanism.soft_targets
