"""Aggregation against naive loops, and that it finds out who knows what."""

import math

import pytest
import torch

from dpsd.privacy.mechanisms.aggregate import _KNOWN, aggregate
from dpsd.privacy.mechanisms.randomized_response import RandomizedResponse
from dpsd.privacy.noise import NoiseSource


def scores(clients=3, rows=5, classes=4, seed=0):
    rng = torch.Generator().manual_seed(seed)
    return torch.randn(clients, rows, classes, generator=rng).log_softmax(2)


def test_plain_is_the_sum_and_without_a_claim_the_mean_of_probabilities():
    s = scores()
    torch.testing.assert_close(aggregate("plain", s, private=True), s.sum(0))
    torch.testing.assert_close(aggregate("plain", s, private=False).exp(), s.exp().mean(0))
    logits = aggregate("logits", s, private=False)
    torch.testing.assert_close(logits, s.mean(0).log_softmax(1))


@pytest.mark.parametrize("private", [True, False])
def test_confidence_weighs_by_what_an_answer_itself_says(private):
    s = scores()
    expected = torch.zeros(5, 4, dtype=torch.float64)
    for b in range(5):
        total, weights = torch.zeros(4, dtype=torch.float64), 0.0
        for i in range(3):
            p = s[i, b].double().exp()
            w = 1 + float((p * p.log()).sum()) / math.log(4)
            total += w * (s[i, b].double() if private else p)
            weights += w
        expected[b] = 3 * total / weights if private else (total / weights).log()
    found = aggregate("confidence", s, private=private)
    torch.testing.assert_close(found.double(), expected, atol=1e-5, rtol=1e-5)


def test_labels_mixes_what_a_client_knows_with_what_it_names_otherwise():
    s, n = scores(), torch.tensor([[100, 0, 5, 3], [0, 0, 50, 50], [9, 9, 9, 9]])
    expected = torch.zeros(5, 4)
    for b in range(5):
        for c in range(4):
            for i in range(3):
                k = float(n[i, c] / (n[i, c] + _KNOWN))
                pi = (n[i] + 1) / (n[i] + 1).sum()
                other = float((pi * s[i, b].exp()).sum())
                expected[b, c] += math.log(k * math.exp(s[i, b, c]) + (1 - k) * other)
    found = aggregate("labels", s, private=True, labels=n)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    # A count that noise drove below zero is no negative knowledge.
    assert aggregate("labels", s, private=True, labels=n - 20).isfinite().all()


def test_learned_finds_out_which_client_knows_which_class():
    """Two clients of three call every class above 2 a 0; the answers are noisy."""
    classes, rows, rng = 5, 20_000, torch.Generator().manual_seed(1)
    truth = torch.randint(classes, (rows,), generator=rng)
    ignorant = torch.where(truth > 2, 0, truth)
    said = [truth, ignorant, ignorant]
    mechanism = RandomizedResponse(classes, 1.0, uses_prior=False)
    noisy = torch.stack([
        mechanism.log_likelihood(mechanism.release(
            torch.nn.functional.one_hot(t, classes).double(), None, NoiseSource(bytes([i]))))
        for i, t in enumerate(said)
    ])  # fmt: skip

    def right(kind):
        # The mean log-likelihood ratio of the truth against the best other class.
        out = aggregate(kind, noisy, private=True)
        return float((out.argmax(1) == truth).double().mean())

    assert right("learned") > right("plain") + 0.02


def test_learned_leaves_equal_experts_equal():
    s = scores(rows=200).mul(5).log_softmax(2)
    same = s[:1].expand(3, -1, -1)
    assert torch.equal(aggregate("learned", same, private=True).argmax(1), s[0].argmax(1))


def test_answers_that_are_equally_sure_weigh_as_in_the_plain_sum():
    """Weights are relative: five doubtful answers are not made five times as doubtful."""
    scores = torch.tensor([0.62, 0.38]).log().expand(5, 7, 2)
    plain = aggregate("plain", scores, private=True)
    torch.testing.assert_close(aggregate("confidence", scores, private=True), plain)
