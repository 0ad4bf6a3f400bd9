import math

import pytest
import torch
from ensembles import correlated_votes

from dpsd.errors import UserError
from dpsd.privacy.accounting import calibrate_votes
from dpsd.privacy.events import VotesRelease
from dpsd.privacy.mechanisms.base import Answers
from dpsd.privacy.mechanisms.votes import NoisyVotes
from dpsd.privacy.noise import NoiseSource


def test_release_is_the_histogram_plus_integers():
    votes = correlated_votes(3000, 50, 6)
    m = NoisyVotes(6, 50, 7.0)
    answers = m.release(votes, None, NoiseSource(b"votes"))
    assert answers.values.dtype == torch.int64
    assert answers.support is None and answers.size is None
    noise = (answers.values - votes).double()
    assert float(noise.mean().abs()) < 5 * 7 / math.sqrt(noise.numel())
    assert float(noise.std()) == pytest.approx(7, rel=0.03)
    assert m.event == VotesRelease(7.0, cells=2)
    assert m.sensitivity == math.sqrt(2)


def test_top_k_is_the_students_and_costs_no_less():
    votes, prior = correlated_votes(500, 50, 6), torch.rand(500, 6)
    m = NoisyVotes(6, 50, 1e-3, top_k=2)  # no noise to speak of
    answers = m.release(votes, prior, NoiseSource(b"top"))
    assert torch.equal(answers.support, prior.topk(2).indices)
    assert torch.equal(answers.values, votes.gather(1, answers.support))
    assert (m.event, m.sensitivity) == (VotesRelease(1e-3, cells=2), math.sqrt(2))


def test_a_replaced_vote_moves_two_released_counts_by_one():
    votes = correlated_votes(200, 20, 6)
    moved = votes.clone()
    leader = votes.argmax(1, keepdim=True)
    moved.scatter_add_(1, leader, torch.full_like(leader, -1))
    moved.scatter_add_(1, (leader + 1) % 6, torch.ones_like(leader))
    m = NoisyVotes(6, 20, 5.0)
    a, b = (m.release(v, None, NoiseSource(b"same")).values for v in (votes, moved))
    assert ((a - b).abs().sum(1) == 2).all() and ((a - b).sum(1) == 0).all()


@pytest.mark.parametrize(
    ("row", "becomes"),
    [
        ([5, 5, 5, 5], [5, 5, 5, 5]),
        ([4, 5, 5, 5], [5, 5, 5, 5]),  # a teacher that did not vote votes for class 0
        ([0, 0, 0, 0], [20, 0, 0, 0]),
        ([5, 5, 5, 6], [20, 0, 0, 0]),  # more than there are teachers
        ([5, -1, 5, 5], [10, 0, 5, 5]),
        ([5, math.nan, 5, 5], [10, 0, 5, 5]),
        ([math.inf, 5, 5, 5], [5, 5, 5, 5]),
        ([5, 4.5, 5, 5], [10, 0, 5, 5]),
    ],
)
def test_whatever_comes_is_made_n_votes(row, becomes):
    found = NoisyVotes(4, 20, 1.0).read(torch.tensor([row, [20, 0, 0, 0]]))
    assert found.dtype == torch.int64
    assert found.tolist() == [becomes, [20, 0, 0, 0]]


@pytest.mark.parametrize("shape", [(3, 5), (3,), (3, 4, 1)])
def test_votes_of_another_shape_are_refused(shape):
    with pytest.raises(UserError, match=r"votes of shape .* accepted: \[B, 4\]"):
        NoisyVotes(4, 20, 1.0).read(torch.zeros(shape))


def test_an_empty_batch_says_nothing():
    m = NoisyVotes(3, 20, 4.0)
    empty = m.release(torch.zeros(0, 3).long(), None, NoiseSource())
    assert m.log_likelihood(empty).shape == (0, 3)


@pytest.mark.parametrize(
    ("rows", "voters", "classes", "epsilon"),
    [(200, 20, 10, 10.0), (200, 250, 10, 2.0), (2048, 1000, 10, 1.0), (4000, 4000, 10, 1.0),
     (2048, 250, 10, 10.0), (1000, 50, 2, 2.0), (10_000, 20, 5, 1.0)],
)  # fmt: skip
def test_the_profile_is_as_good_as_the_best_gain_chosen_with_the_truth(
    rows, voters, classes, epsilon
):
    """A fixed gain on the counts, picked by looking at the true votes, is what it must match."""
    votes = correlated_votes(rows, voters, classes)
    top, sigma = votes.argmax(1), calibrate_votes(epsilon, 1e-5, rows)[0]
    m = NoisyVotes(classes, voters, sigma)
    answers = m.release(votes, None, NoiseSource(b"profile"))
    posterior = m.log_likelihood(answers).double().log_softmax(1)
    each = torch.arange(rows)
    loss = -float(posterior[each, top].mean())
    gains = [g * voters / sigma**2 for g in (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0)]
    best = min(
        -float((g * answers.values.double()).log_softmax(1)[each, top].mean()) for g in gains
    )
    assert loss < best + 0.01 + 0.5 / math.sqrt(rows)
    sure, right = posterior.exp().amax(1), (posterior.argmax(1) == top).double()
    assert float(sure.mean()) == pytest.approx(float(right.mean()), abs=0.06 + 1 / math.sqrt(rows))


def test_likelihood_of_a_class_outside_of_the_support_lies_between():
    m = NoisyVotes(5, 100, 5.0, top_k=2)
    values = torch.tensor([[90, 4], [3, 2], [50, 48]])
    support = torch.tensor([[1, 2]] * 3)
    profile = m.profile(m.release(correlated_votes(500, 100, 5), torch.rand(500, 5), NoiseSource()))
    scores = m.log_likelihood(Answers(values, support), profile)
    assert scores[0].argmax() == 1 and scores[1].argmax() in (0, 3, 4)
    assert torch.allclose(scores[:, [0]], scores[:, [3, 4]])
    assert abs(float(scores[2, 1] - scores[2, 2])) < 1 < float(scores[2, 1] - scores[2, 0])
