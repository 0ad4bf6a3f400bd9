"""A small plan, images and a teacher that the oracle's tests share."""

import torch

from dpsd.config import parse_config
from dpsd.privacy.plan import make_plan

K, SHAPE = 4, (1, 3, 3)


def images(n, seed=0):
    rng = torch.Generator().manual_seed(seed)
    return torch.randint(256, (n, *SHAPE), generator=rng, dtype=torch.uint8)


def plan(answers=100, **privacy):
    privacy = {"mechanism": "randomized_response", "epsilon": 1.0, "answers": answers} | privacy
    return make_plan(
        parse_config(
            {
                "data": {"name": "none", "shape": list(SHAPE), "classes": K},
                "loop": {"rounds": 1, "window": 10},
                "privacy": privacy,
            }
        )
    )


SEEDED = {"insecure_seeded_noise": True}
GAUSSIAN = {"mechanism": "gaussian", "vector": "probabilities"}
GRADIENT = {"mechanism": "gaussian", "vector": "gradient", "top_k": 2}
PLAIN = {"prior": "uniform"}
KINDS = [{}, {"top_k": 2}, PLAIN, GAUSSIAN, GRADIENT, {"mechanism": "none", "epsilon": None}]


class Teacher:
    """Logits that depend on the image; counts its calls."""

    def __init__(self, break_rows=None):
        self.calls, self.break_rows = 0, break_rows

    def __call__(self, x):
        self.calls += 1
        logits = x.float().flatten(1)[:, :K] / 50
        return logits if self.break_rows is None else self.break_rows(x, logits)


def prior(x):
    return (x.float().flatten(1)[:, -K:] / 100).softmax(1)


def same(a, b):
    pairs = [(a.values, b.values), (a.support, b.support), (a.size, b.size), (a.prior, b.prior)]
    return all(x is y if x is None or y is None else torch.equal(x, y) for x, y in pairs)
