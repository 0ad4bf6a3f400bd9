"""Warner's yes or no to a public group of classes."""

import math

import numpy as np
import pytest
import torch
from bounds import epsilon_bound

from dpsd.attacks.audit.mechanism import audit_mechanism
from dpsd.privacy.events import PureRelease
from dpsd.privacy.mechanisms.group_response import GroupResponse
from dpsd.privacy.noise import NoiseSource

K, ROWS = 6, 60_000
PRIOR = torch.tensor([0.4, 0.3, 0.15, 0.1, 0.04, 0.01])


def released(epsilon, true=0, uses_prior=True):
    m = GroupResponse(K, epsilon, uses_prior)
    teacher = torch.eye(K)[true].expand(ROWS, -1)
    return m, m.release(teacher, PRIOR.expand(ROWS, -1), NoiseSource(b"group"))


def group_of(answers):
    """Bool [B, K]: which classes are in the question, by a plain loop."""
    out = np.zeros((len(answers), K), dtype=bool)
    for i, (order, n) in enumerate(zip(answers.support.tolist(), answers.size.tolist())):  # noqa: B905
        out[i, order[:n]] = True
    return out


@pytest.mark.parametrize("epsilon", [0.1, 1.0, 3.0])
@pytest.mark.parametrize("true", [0, 5])
def test_truth_is_told_with_warners_probability(epsilon, true):
    _, answers = released(epsilon, true)
    honest = (answers.values.numpy() == 1) == group_of(answers)[:, true]
    p = math.exp(epsilon) / (1 + math.exp(epsilon))
    assert abs(honest.mean() - p) < 5 * math.sqrt(p * (1 - p) / ROWS)


@pytest.mark.parametrize("epsilon", [0.1, 1.0, 3.0])
def test_log_likelihood_is_bayes(epsilon):
    m, answers = released(epsilon)
    p = math.exp(epsilon) / (1 + math.exp(epsilon))
    group, yes = group_of(answers), answers.values.numpy()[:, None] == 1
    expected = np.log(np.where(group == yes, p, 1 - p))
    assert np.abs(m.log_likelihood(answers).numpy() - expected).max() < 1e-6


def test_group_depends_on_public_things_alone_and_is_near_half():
    _, a = released(1.0, true=0)
    _, b = released(1.0, true=5)
    assert torch.equal(a.support, b.support) and torch.equal(a.size, b.size)
    for order, n in zip(a.support[:200].tolist(), a.size[:200].tolist(), strict=True):
        gaps = [abs(float(PRIOR.double()[order[:cut]].sum()) - 0.5) for cut in range(1, K)]
        assert gaps[n - 1] == pytest.approx(min(gaps), abs=1e-9)


def test_without_prior_every_class_is_in_half_of_the_groups():
    _, answers = released(1.0, uses_prior=False)
    assert set(answers.size.tolist()) == {K // 2}
    assert np.abs(group_of(answers).mean(0) - 0.5).max() < 5 * 0.5 / math.sqrt(ROWS)


@pytest.mark.parametrize("factor", [1.0, 2.0])
def test_audit_keeps_epsilon_and_catches_a_doubled_one(factor):
    m = GroupResponse(K, factor)
    sure = torch.eye(K, dtype=torch.float64)
    s = audit_mechanism(m, sure[0], sure[1], PRIOR, draws=100_000, noise=NoiseSource(b"audit"))
    bound = epsilon_bound(s.world0, s.world1, alpha=1e-6)
    assert (bound <= 1.0) == (factor == 1.0)
    assert m.event == PureRelease(factor)
