"""The attacks by name."""

from dataclasses import dataclass

from dpsd.attacks.extraction.clone import Attack
from dpsd.attacks.extraction.hard import basic
from dpsd.attacks.extraction.soft import distillation


@dataclass(frozen=True)
class Named:
    """An attack, what it needs of an answer (`probabilities` or `labels`), and what it does."""

    run: Attack
    needs: str
    text: str


ATTACKS = {
    "basic": Named(basic, "labels", "learns the named classes of images of the pool"),
    "distillation": Named(distillation, "probabilities", "learns the whole answers"),
}
