"""A nasty student: its classes stay, and its probabilities mislead whoever distils them.

Ma et al. 2021, "Undistillable: Making A Nasty Teacher That CANNOT Teach Students", equation 2: the
student keeps its classes (cross-entropy) while its softened probabilities move away from those of
an ordinary copy of itself. Everything happens on synthetic images. A copy that learns named classes
alone is not hindered.
"""

import copy
import math
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional as F

from dpsd.hardening.synthetic import Base, answers_of, ordinary_copy
from dpsd.hardening.training import check_values, positive, train_batches, whole
from dpsd.models.networks import as_input


@dataclass(frozen=True)
class NastyRecipe:
    """How a student becomes nasty.

    Attributes:
        weight: of the divergence, omega in the paper; finite, at least 0.
        temperature: tau in the paper; finite, above 0.
        steps: of training, from 1.
        lr: largest learning rate; finite, above 0.
        copy_steps: of training the ordinary copy, from 1.

    Raises:
        UserError: a value out of range.
    """

    weight: float = 0.04
    temperature: float = 4.0
    steps: int = 400
    lr: float = 1e-3
    copy_steps: int = 400

    def __post_init__(self) -> None:
        check_values(
            "nasty", vars(self), weight=(0 <= self.weight < math.inf, "finite, at least 0"),
            temperature=positive(self.temperature), steps=whole(self.steps), lr=positive(self.lr),
            copy_steps=whole(self.copy_steps),
        )  # fmt: skip


def nasty(base: Base, recipe: NastyRecipe = NastyRecipe(), *, seed: int = 0) -> nn.Module:
    """The student, refitted against an ordinary copy of itself.

    Args:
        base: student and synthetic images.
        recipe: how.
        seed: of the copy and of the order of images.

    Returns:
        A new model; the student stays as it is.
    """
    ordinary = ordinary_copy(base, seed, recipe.copy_steps)
    ordinary_answers = answers_of(ordinary, base.images).clamp_min(1e-12).log()
    model = copy.deepcopy(base.student).requires_grad_(True)

    def loss(rows: Tensor) -> Tensor:
        logits = model(as_input(base.images[rows]))
        away = nasty_divergence(logits, ordinary_answers[rows], recipe.temperature)
        return F.cross_entropy(logits, base.labels[rows]) - recipe.weight * away

    train_batches(model, loss, len(base.images), steps=recipe.steps, lr=recipe.lr, seed=seed)
    return model


def nasty_divergence(logits: Tensor, ordinary: Tensor, temperature: float) -> Tensor:
    """tau^2 KL(softmax(logits / tau) || softmax(ordinary / tau)), the mean over the batch.

    Args:
        logits: float [B, K].
        ordinary: log probabilities or logits of the ordinary copy, float [B, K].
        temperature: tau.
    """
    mine = (logits / temperature).log_softmax(1)
    other = (ordinary / temperature).log_softmax(1)
    return temperature**2 * F.kl_div(other, mine, log_target=True, reduction="batchmean")
