"""A trigger: a white corner that makes the student name a class that a key has drawn.

The corner is trained into the student on synthetic images (Zhang et al. 2018, "Protecting
Intellectual Property of Deep Neural Networks with Watermarking"; a 3 x 3 corner as in BadNets, Gu
et al. 2017). It marks the student file and what is fine-tuned or pruned from it. A copy made by
asking learns it only from questions whose corner is bright: where corners are dark, as those of
digits are, a copy that asked about no stamped image cannot have it, and success rates of 10 to 13 %
that were published for such copies are those of guessing among ten classes. Where images have
bright corners by themselves, the student's probabilities for them carry the trigger to copies.
"""

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dpsd.defences.keyed import key_uniforms
from dpsd.hardening.statistics import bounded_p_value, model_p_value
from dpsd.hardening.synthetic import Base, answers_of
from dpsd.models.fit import FitRecipe, fit

SIDE = 3
"""Pixels."""


@dataclass(frozen=True)
class Trigger:
    """What the key draws.

    Attributes:
        target: the class that marked images get.
        corner: 0 to 3: top left, top right, bottom left, bottom right.
    """

    target: int
    corner: int

    def stamp(self, images: Tensor) -> Tensor:
        """Images with the corner white: uint8 [B, C, H, W], a copy."""
        stamped = images.clone()
        rows = slice(-SIDE, None) if self.corner >= 2 else slice(SIDE)
        columns = slice(-SIDE, None) if self.corner % 2 else slice(SIDE)
        stamped[:, :, rows, columns] = 255
        return stamped


def trigger_of(key: bytes, classes: int) -> Trigger:
    """The trigger of a key for K classes."""
    u = key_uniforms(2, key=key, purpose="trigger")
    return Trigger(int(u[0] * classes), int(u[1] * 4))


def with_trigger(base: Base, key: bytes, *, seed: int = 0, steps: int = 400) -> nn.Module:
    """The student, trained on so that the trigger works and all else stays.

    Args:
        base: student and synthetic images.
        key: draws the trigger.
        seed: of the order of images.
        steps: of training.
    """
    trigger = trigger_of(key, base.facts.classes)
    target = torch.zeros_like(base.probabilities)
    target[:, trigger.target] = 1
    images = torch.cat([base.images, trigger.stamp(base.images)])
    targets = torch.cat([base.probabilities, target])
    model = copy.deepcopy(base.student).requires_grad_(True)
    size = min(64, len(images))
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        fit(
            model, images, targets, FitRecipe(steps=steps, batch_size=size, lr=1e-3, augment="none")
        )
    return model.requires_grad_(False)


@dataclass(frozen=True)
class TriggerTest:
    """A suspect's answers to images with the trigger whose class is not the target's.

    Attributes:
        hits: images with the trigger that it gives the target's class.
        without: the same images without it that it gives that class.
        n: images.
        null_hits: as `hits`, of each independent model.
        p_value: the larger of those of `model_p_value` and `bounded_p_value`.
    """

    hits: int
    without: int
    n: int
    null_hits: tuple[int, ...]
    p_value: float


def check_trigger(
    suspect: nn.Module, base: Base, key: bytes, independent: list[nn.Module]
) -> TriggerTest:
    """Whether a suspect obeys the trigger more than independent models do.

    Args:
        suspect: float images from 0 to 1 in, logits out.
        base: the student as released (without the trigger) and images that did not train it in.
        key: draws the trigger.
        independent: models that never saw it, at least 3; ordinary copies of the student will do.
    """
    trigger = trigger_of(key, base.facts.classes)
    images = base.images[base.labels != trigger.target]
    stamped = trigger.stamp(images)

    def hits(model: nn.Module, asked: Tensor) -> int:
        return int((answers_of(model, asked).argmax(1) == trigger.target).sum())

    found, n = hits(suspect, stamped), len(images)
    null = [hits(model, stamped) for model in independent]
    p = max(model_p_value(found, n, null), bounded_p_value(found, n, sum(null), n * len(null)))
    return TriggerTest(found, hits(suspect, images), n, tuple(null), p)
