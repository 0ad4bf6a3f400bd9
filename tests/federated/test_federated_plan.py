"""The planner says when there are too few clients, with the number."""

import numpy as np
import pytest

from dpsd.describe import describe, describe_text
from dpsd.federated.planner import AGREE, RIVAL, enough_clients
from dpsd.privacy.votes import NoisyVotes


def test_the_number_of_clients_is_where_half_of_the_answers_are_right():
    sigma, classes = 100.0, 10
    needed = enough_clients(NoisyVotes(classes, 5, sigma)).needed
    rng = np.random.default_rng(0)
    rest = (1 - AGREE - RIVAL) / (classes - 2)
    votes = needed * np.array([AGREE, RIVAL] + [rest] * (classes - 2))
    noisy = votes + sigma * rng.standard_normal((100_000, classes))
    assert (noisy.argmax(1) == 0).mean() == pytest.approx(0.5, abs=0.01)


def test_the_plan_says_so():
    from dpsd.config import parse_config

    def text(clients):
        tree = {
            "device": "cpu",
            "loop": {"rounds": 4},
            "privacy": {"route": "federated", "unit": "client", "mechanism": "noisy_votes",
                        "epsilon": 2, "answers": 2048},
            "federated": {"clients": clients},
        }  # fmt: skip
        return describe_text(describe(parse_config(tree)))

    assert "Clients: 5 are too few" in text(5) and "Clients: 1,000 are enough" in text(1000)
    assert "the server sees each client's votes and is trusted" in text(5)
