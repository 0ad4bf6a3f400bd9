"""Transcripts of two worlds: exact loss distributions against the accountant and brute force."""

import itertools
import math

import numpy as np
import pytest
import torch

from dpsd.attacks.audit.transcripts import draw_transcripts, exact_epsilon, merged
from dpsd.privacy.accounting import compose_epsilon, gaussian_epsilon
from dpsd.privacy.events import PureRelease, VotesRelease
from dpsd.privacy.mechanisms.base import Answers, NoMechanism
from dpsd.privacy.mechanisms.gaussian import Gaussian
from dpsd.privacy.mechanisms.graded_response import GradedResponse
from dpsd.privacy.mechanisms.group_response import GroupResponse
from dpsd.privacy.mechanisms.randomized_response import RandomizedResponse
from dpsd.privacy.mechanisms.votes import NoisyVotes
from dpsd.privacy.noise import NoiseSource

K, DELTA = 4, 1e-5
SURE = torch.eye(K, dtype=torch.float64)


def asked(mechanism, rows, seed=b"asked"):
    prior = torch.rand(rows, K, generator=torch.Generator().manual_seed(3)).softmax(1)
    said = SURE[torch.arange(rows) % K]
    return mechanism.release(said, prior, NoiseSource(seed))


def test_only_answers_that_differ_count():
    m = RandomizedResponse(2, 0.7, uses_prior=False)
    world0 = torch.eye(2, dtype=torch.float64)[torch.zeros(100, dtype=torch.int64)]
    world1 = world0.clone()
    world1[:30] = world0[0].flip(0)
    loss = m.pair_loss(Answers(torch.zeros(100, dtype=torch.int64)), world0, world1)
    assert (loss.answers, loss.differing) == (100, 30)
    expected = compose_epsilon([(PureRelease(0.7), 30)], DELTA)
    assert exact_epsilon(loss, DELTA) == pytest.approx(expected, rel=1e-3)
    same = m.pair_loss(Answers(torch.zeros(100, dtype=torch.int64)), world0, world0)
    assert exact_epsilon(same, DELTA) == 0
    assert all((s == 0).all() for s in draw_transcripts(same, 50, 0))


def test_supports_and_their_outsides_by_brute_force():
    """Three answers of RRWithPrior with unlike supports: all outcomes one by one."""
    mechanism = RandomizedResponse(K, 1.0)
    answers = asked(mechanism, 3)
    class0, class1 = torch.tensor([0, 1, 2]), torch.tensor([3, 2, 1])
    loss = mechanism.pair_loss(answers, SURE[class0], SURE[class1])

    def table(i, c):
        k = int(answers.size[i])
        order = answers.support[i, :k].tolist()
        place = order.index(c) if c in order else None
        return mechanism.probabilities(place, k)

    tables = [(table(i, int(class0[i])), table(i, int(class1[i]))) for i in range(3)]
    delta = 0.02
    found = exact_epsilon(loss, delta)
    reached = []
    for forward in (0, 1):
        total = 0.0
        for outcome in itertools.product(*(range(len(t[0])) for t in tables)):
            p = [math.prod(t[w][o] for t, o in zip(tables, outcome, strict=True)) for w in (0, 1)]
            total += max(0.0, p[forward] - math.exp(found) * p[1 - forward])
        reached.append(total)
    assert max(reached) == pytest.approx(delta, rel=0.02)


def test_group_questions_that_do_not_part_the_classes_tell_nothing():
    mechanism = GroupResponse(K, 1.0)
    answers = asked(mechanism, 400)
    world0, world1 = SURE[torch.zeros(400, dtype=torch.int64)], SURE[torch.ones(400).long()]
    inside = torch.zeros(400, K, dtype=torch.bool)
    for i in range(400):
        inside[i, answers.support[i, : int(answers.size[i])]] = True
    parted = int((inside[:, 0] != inside[:, 1]).sum())
    loss = mechanism.pair_loss(answers, world0, world1)
    assert 0 < parted < 400 and loss.differing == parted
    expected = compose_epsilon([(PureRelease(1.0), parted)], DELTA)
    assert exact_epsilon(loss, DELTA) == pytest.approx(expected, rel=1e-3)


def test_gaussian_answers_add_squares():
    mechanism = Gaussian(K, 3.0, vector="gradient", top_k=3)
    answers = asked(mechanism, 50)
    rng = torch.Generator().manual_seed(0)
    world0, world1 = (torch.rand(50, K, generator=rng).double().softmax(1) for _ in range(2))
    prior = torch.rand(50, K, generator=torch.Generator().manual_seed(3)).softmax(1)
    v0, _ = mechanism.bounded(world0, prior, answers.support)
    v1, _ = mechanism.bounded(world1, prior, answers.support)
    mu = float((v0 - v1).norm()) / 3.0
    loss = mechanism.pair_loss(answers, world0, world1)
    assert loss.mu == pytest.approx(mu, rel=1e-6)
    assert exact_epsilon(loss, DELTA) == pytest.approx(gaussian_epsilon(mu, DELTA), rel=1e-6)


def test_votes_move_by_one():
    mechanism = NoisyVotes(K, 10, 5.0, top_k=2)
    support = torch.tensor([[0, 1], [0, 2], [2, 3]])
    votes0 = torch.tensor([[5, 5, 0, 0]] * 3)
    votes1 = torch.tensor([[4, 6, 0, 0]] * 3)
    answers = Answers(torch.zeros(3, 2, dtype=torch.int64), support)
    loss = mechanism.pair_loss(answers, votes0, votes1)
    assert (loss.differing, loss.cells, loss.two_cells) == (2, 3, 1)
    expected = compose_epsilon([(VotesRelease(5.0), 1), (VotesRelease(5.0, 1), 1)], DELTA)
    assert exact_epsilon(loss, DELTA) == pytest.approx(expected)


@pytest.mark.parametrize("kind", ["rr", "gaussian", "votes"])
def test_scores_are_log_likelihood_ratios(kind):
    """E0[e^s] = 1 and E1[e^-s] = 1 hold for nothing else."""
    if kind == "votes":
        m = NoisyVotes(K, 10, 4.0)
        loss = m.pair_loss(
            Answers(torch.zeros(3, K, dtype=torch.int64)),
            torch.tensor([[5, 5, 0, 0]] * 3), torch.tensor([[4, 6, 0, 0]] * 3),
        )  # fmt: skip
    else:
        m = RandomizedResponse(K, 0.5) if kind == "rr" else Gaussian(K, 4.0)
        loss = m.pair_loss(asked(m, 6), SURE[torch.zeros(6).long()], SURE[torch.ones(6).long()])
    world0, world1 = draw_transcripts(loss, 100_000, 1)
    assert np.exp(world0).mean() == pytest.approx(1, abs=0.03)
    assert np.exp(-world1).mean() == pytest.approx(1, abs=0.03)
    assert world1.mean() > 0 > world0.mean()


def test_parts_add_up():
    mechanism = RandomizedResponse(K, 0.5)
    answers = asked(mechanism, 20)
    world0, world1 = SURE[torch.zeros(20).long()], SURE[torch.ones(20).long()]
    whole = mechanism.pair_loss(answers, world0, world1)
    parts = []
    for rows in torch.arange(20).split(7):
        part = Answers(answers.values[rows], answers.support[rows], answers.size[rows])
        parts.append(mechanism.pair_loss(part, world0[rows], world1[rows]))
    together = merged(parts)
    assert together.differing == whole.differing > 10
    assert exact_epsilon(together, DELTA) == pytest.approx(exact_epsilon(whole, DELTA))


def test_open_answers_hide_nothing():
    loss = NoMechanism(K).pair_loss(Answers(SURE[:2].float()), SURE[:2], SURE[1:3])
    assert exact_epsilon(loss, DELTA) == math.inf
    world0, world1 = draw_transcripts(loss, 10, 0)
    assert world0.max() < 0 < world1.min()


def test_graded_answers_differ_by_their_whole_code():
    """The same first class and another second is a difference, worth the whole epsilon."""
    mechanism = GradedResponse(K, 8.0)
    world0 = torch.tensor([[0.6, 0.3, 0.06, 0.04]], dtype=torch.float64).repeat(20, 1)
    world1 = world0[:, [0, 2, 1, 3]].clone()
    world1[10:] = world0[10:]
    answers = mechanism.release(world0, None, NoiseSource(b"graded"))
    loss = mechanism.pair_loss(answers, world0, world1)
    assert (loss.answers, loss.differing) == (20, 10)
    expected = compose_epsilon([(PureRelease(8.0), 10)], DELTA)
    assert exact_epsilon(loss, DELTA) == pytest.approx(expected, rel=1e-3)
    (p0, p1, _), = loss.outcomes  # fmt: skip
    assert p0.sum() == pytest.approx(1) and p1.sum() == pytest.approx(1)
    truth = int(mechanism.code(world0)[0])
    many = mechanism.release(world0[:1].repeat(20_000, 1), None, NoiseSource(b"many")).values
    assert float((many == truth).double().mean()) == pytest.approx(p0[0], abs=0.01)
    same = mechanism.pair_loss(answers, world0, world0)
    assert exact_epsilon(same, DELTA) == 0
