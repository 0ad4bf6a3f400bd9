import torch
from probabilities import simplex

from dpsd.privacy.accounting import OpenRelease
from dpsd.privacy.mechanisms import NoMechanism
from dpsd.privacy.noise import NoiseSource


def test_no_mechanism_releases_the_teacher():
    p = simplex(20)
    answers = NoMechanism(6).release(p, None, NoiseSource())
    torch.testing.assert_close(
        NoMechanism(6).log_likelihood(answers).exp(), p.float(), rtol=1e-5, atol=1e-7
    )
    assert NoMechanism(6).event == OpenRelease()
