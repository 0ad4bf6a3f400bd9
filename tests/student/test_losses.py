"""Figures that say how well the student foretells privatised answers (dpsd/distill.py)."""

import math

import pytest
import torch

from dpsd.student.losses import answer_gain, names_a_class


def test_gain_is_that_of_a_plain_loop():
    rng = torch.Generator().manual_seed(5)
    logits, scores = (torch.randn(7, 4, generator=rng, dtype=torch.float64) for _ in range(2))
    for x, ll, found in zip(logits.softmax(1), scores, answer_gain(logits, scores), strict=True):
        foretold = sum(float(x[c]) * math.exp(float(ll[c])) for c in range(4))
        chance = sum(math.exp(float(ll[c])) for c in range(4)) / 4
        assert float(found) == pytest.approx(math.log(foretold / chance))


def test_gain_of_known_students():
    # yes or no to a group of five of ten, told truly with probability 3/4
    scores = torch.tensor([0.75] * 5 + [0.25] * 5).log().repeat(2, 1)
    logits = torch.full((2, 10), -50.0)
    logits[0, 2] = logits[1, 7] = 50.0  # sure and right, sure and wrong
    gain = answer_gain(logits, scores)
    assert gain.tolist() == pytest.approx([math.log(1.5), math.log(0.5)], abs=1e-5)
    assert answer_gain(torch.zeros(2, 10), scores).abs().max() < 1e-6  # knows nothing


def test_which_answers_name_a_class():
    scores = torch.tensor([[-1.0, -1.0, -3.0], [-1.0, -3.0, -3.0], [0.0, 0.0, 0.0]])
    assert names_a_class(scores).tolist() == [False, True, False]
