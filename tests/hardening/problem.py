"""A small problem: which quarter of an image is bright? Fast students, no run."""

from functools import cache
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from dpsd.config import PublicFacts
from dpsd.hardening.synthetic import Base, answers_of
from dpsd.models.fit import FitRecipe, fit
from dpsd.models.networks import build_model

FACTS = PublicFacts(shape=(1, 12, 12), classes=4, class_names=("a", "b", "c", "d"))
CONFIG: Any = SimpleNamespace(student=SimpleNamespace(model="cnn-tiny"), facts=FACTS)
KEY = bytes(range(16))


def drawn(n: int, seed: int) -> tuple[Tensor, Tensor]:
    """Images uint8 [n, 1, 12, 12] and their quarters int64 [n]."""
    rng = torch.Generator().manual_seed(seed)
    shade = F.interpolate(torch.rand(n, 1, 3, 3, generator=rng), (12, 12), mode="bilinear")
    x = 150 * shade + 30 * torch.rand(n, 1, 12, 12, generator=rng)
    y = torch.randint(0, 4, (n,), generator=rng)
    for i, c in enumerate(y.tolist()):
        x[i, :, 6 * (c // 2) : 6 * (c // 2) + 6, 6 * (c % 2) : 6 * (c % 2) + 6] += 70
    return x.to(torch.uint8), y


@cache
def trained(seed: int, n: int = 400) -> torch.nn.Module:
    """A model of the problem; another seed gives other rows and weights. Do not change it."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = build_model("cnn-tiny", FACTS.shape, 4)
        x, y = drawn(n, 100 + seed)
        fit(model, x, y, FitRecipe(steps=120, batch_size=32, lr=0.01, augment="none"))
    return model.requires_grad_(False)


def base(n: int = 400, stream: int = 0) -> Base:
    """The student with seed 0 and images."""
    student, (images, _) = trained(0), drawn(n, 1_000 + stream)
    return Base(CONFIG, student, images, answers_of(student, images))


def agreement(one: torch.nn.Module, other: torch.nn.Module, images: Tensor) -> float:
    """Share of images with the same class."""
    same = answers_of(one, images).argmax(1) == answers_of(other, images).argmax(1)
    return float(same.double().mean())
