"""Votes, plans and runs of an ensemble that several tests share."""

import numpy as np
import torch

from dpsd.config import parse_config
from dpsd.privacy.plan import make_plan

K, VOTERS, SHAPE = 4, 20, (1, 3, 3)


def ensemble_config(**privacy):
    fields = {"route": "ensemble", "unit": "record", "mechanism": "noisy_votes", "epsilon": 1.0,
              "answers": 100} | privacy  # fmt: skip
    return {
        "data": {"name": "none", "shape": list(SHAPE), "classes": K, "user_ids": "ids"},
        "teacher": {"shards": VOTERS},
        "loop": {"rounds": 1, "window": 10},
        "privacy": fields,
    }


def ensemble_plan(**privacy):
    return make_plan(parse_config(ensemble_config(**privacy)))


class Ensemble:
    """Counts of votes that depend on the image; row 0 of each call may be broken."""

    def __init__(self, change=None):
        self.change = change

    def __call__(self, x):
        lead = x.long().flatten(1)[:, 0] % K
        votes = torch.full((len(x), K), 2)
        votes[torch.arange(len(x)), lead] += VOTERS - 2 * K
        return votes if self.change is None else self.change(votes)


def correlated_votes(rows, voters, classes, seed=0, confidence=2.0):
    """Votes that have a leader and a runner-up, differently strong from image to image."""
    rng = np.random.default_rng(seed)
    leader = rng.integers(0, classes, rows)
    second = (leader + rng.integers(1, classes, rows)) % classes
    alpha = np.full((rows, classes), 0.15)
    alpha[np.arange(rows), leader] += confidence
    alpha[np.arange(rows), second] += rng.gamma(0.5, 1, rows) * confidence / 2
    shares = np.stack([rng.dirichlet(a) for a in alpha])
    return torch.from_numpy(np.stack([rng.multinomial(voters, s) for s in shares]))
