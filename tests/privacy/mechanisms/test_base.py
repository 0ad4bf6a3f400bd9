import torch
from probabilities import simplex

from dpsd.privacy.events import OpenRelease
from dpsd.privacy.mechanisms.base import NoMechanism, likeliest
from dpsd.privacy.noise import NoiseSource


def test_no_mechanism_releases_the_teacher():
    p = simplex(20)
    answers = NoMechanism(6).release(p, None, NoiseSource())
    torch.testing.assert_close(
        NoMechanism(6).log_likelihood(answers).exp(), p.float(), rtol=1e-5, atol=1e-7
    )
    assert NoMechanism(6).event == OpenRelease()


def test_of_equals_the_first_class_is_likeliest():
    prior = (simplex(500, classes=100).float() * 50).round()  # many ties
    for row, found in zip(prior.tolist(), likeliest(prior, 7).tolist(), strict=True):
        assert found == sorted(range(100), key=lambda c: (-row[c], c))[:7]
