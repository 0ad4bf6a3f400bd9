"""A small problem to copy a model of: scikit-learn's digits, 8 x 8 pixels, and what attacks get."""

import functools
from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from sklearn.datasets import load_digits
from torch import Tensor

from dpsd.attacks.extraction.clone import Attack, Clone, Holdings, predict
from dpsd.attacks.extraction.endpoint import Ask, Service
from dpsd.config import PublicFacts
from dpsd.defences import Defence
from dpsd.models.fit import FitRecipe, fit
from dpsd.models.networks import build_model

FACTS = PublicFacts(shape=(1, 8, 8), classes=10, class_names=tuple("0123456789"))
KEY = bytes(range(16))
_VICTIM, _POOL = 700, 700  # rows; the rest measures


@functools.cache
def digits() -> tuple[Tensor, Tensor]:
    """uint8 [1797, 1, 8, 8], int64 [1797], in a random order."""
    x, y = load_digits(return_X_y=True)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    pixels = torch.from_numpy(x * 15.9).to(torch.uint8).view(-1, 1, 8, 8)
    return pixels[order], torch.from_numpy(y).long()[order]


def pool() -> Tensor:
    """What attackers may ask about."""
    return digits()[0][_VICTIM : _VICTIM + _POOL]


def rows() -> Tensor:
    """What clones are measured on."""
    return digits()[0][_VICTIM + _POOL :]


@functools.cache
def victim(model: str = "cnn-tiny") -> Ask:
    """A model of the first rows; it is trained once for each process."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        net = build_model(model, FACTS.shape, FACTS.classes)
        x, y = digits()
        steps = 150 if "scatter" in model else 400
        fit(net, x[:_VICTIM], y[:_VICTIM], FitRecipe(steps=steps, batch_size=64, lr=5e-3))
    net.requires_grad_(False)
    return lambda images: predict(net, images)


def holdings(*ladder: int, **changes: object) -> Holdings:
    """Of an attacker with the pool and a clone that trains for a short while."""
    base = Holdings(pool=pool(), ladder=ladder, model="cnn-tiny", passes=10, least_steps=60,
                    augment="none")  # fmt: skip
    return replace(base, **changes)


def clones(
    attack: Attack,
    held: Holdings,
    *,
    ask: Ask | None = None,
    defences: Sequence[Defence] = (),
    accounts: int = 1,
) -> list[Clone]:
    """All clones of an attack. The count of the service equals theirs and stays in the budget."""
    given = []
    service = Service(
        ask or victim(), FACTS, budget=held.ladder[-1], defences=defences, key=KEY,
        accounts=accounts,
    )  # fmt: skip
    with service as endpoint:
        for clone, step in zip(attack(endpoint, held), held.ladder, strict=True):
            assert service.asked == clone.asked <= step
            given.append(clone)
    return given


def agreement(clone: Clone, ask: Ask | None = None) -> float:
    """Share of the measured rows on which clone and victim name the same class."""
    said = (ask or victim())(rows()).argmax(1)
    return float((predict(clone.model, rows()).argmax(1) == said).double().mean())


def shuffled(attack: Attack) -> Attack:
    """The floor: the same attack where each answer of a batch belongs to another image of it."""

    def floor(endpoint: object, held: Holdings) -> Iterator[Clone]:
        return attack(_Shuffling(endpoint), held)  # type: ignore[arg-type]

    return floor


class _Shuffling:
    """An endpoint that mixes up its answers."""

    def __init__(self, endpoint: object) -> None:
        self._endpoint = endpoint
        self._rng = torch.Generator().manual_seed(5)

    def __getattr__(self, name: str) -> object:
        return getattr(self._endpoint, name)

    def ask(self, images: Tensor, account: int = 0) -> Tensor:
        answers: Tensor = self._endpoint.ask(images, account)  # type: ignore[attr-defined]
        return answers[torch.randperm(len(answers), generator=self._rng)]
