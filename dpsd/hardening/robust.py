"""A student that small changes of an image do not fool: adversarial training on synthetic images.

Madry et al. 2018, equation 2.1; one step is the fast gradient sign method (Goodfellow et al. 2015).
Attacks that walk along the decision boundary meet a smoother one. As a victim it is a model of its
own.
"""

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dpsd.hardening.synthetic import Base
from dpsd.hardening.training import check_values, positive, train_batches, whole
from dpsd.models.networks import as_input


@dataclass(frozen=True)
class RobustRecipe:
    """How a student becomes robust.

    Attributes:
        radius: largest change of a pixel, above 0, at most 1.
        pgd_steps: gradient steps of each attack, from 1; 1 is the fast gradient sign method.
        steps: of training, from 1.
        lr: largest learning rate; finite, above 0.

    Raises:
        UserError: a value out of range.
    """

    radius: float = 0.1
    pgd_steps: int = 3
    steps: int = 400
    lr: float = 1e-3

    def __post_init__(self) -> None:
        check_values(
            "robust", vars(self), radius=positive(self.radius, 1), pgd_steps=whole(self.pgd_steps),
            steps=whole(self.steps), lr=positive(self.lr),
        )  # fmt: skip


def robust(base: Base, recipe: RobustRecipe = RobustRecipe(), *, seed: int = 0) -> nn.Module:
    """The student, trained on attacked synthetic images with its own probabilities.

    Half of each loss is on the images as they are, so that the classes stay.

    Args:
        base: student and synthetic images.
        recipe: how.
        seed: of the order of images and the starts of the attacks.

    Returns:
        A new model; the student stays as it is.
    """
    model = copy.deepcopy(base.student).requires_grad_(True)
    rng = torch.Generator().manual_seed(seed)

    def loss(rows: Tensor) -> Tensor:
        x, target = as_input(base.images[rows]), base.probabilities[rows]
        model.eval()  # the attack leaves running statistics alone
        noise = 2 * torch.rand(x.shape, generator=rng) - 1
        attacked = pgd(model, x, target, recipe.radius, recipe.pgd_steps, noise)
        model.train()
        plain, worst = model(torch.cat([x, attacked])).chunk(2)
        return (F.cross_entropy(plain, target) + F.cross_entropy(worst, target)) / 2

    train_batches(model, loss, len(base.images), steps=recipe.steps, lr=recipe.lr, seed=seed)
    return model


def pgd(
    model: nn.Module, x: Tensor, target: Tensor, radius: float, steps: int, noise: Tensor
) -> Tensor:
    """Images near the given ones on which the model's loss is large.

    Args:
        model: in evaluation mode.
        x: float [B, C, H, W] from 0 to 1.
        target: probabilities float [B, K], or classes int64 [B].
        radius: of the L-infinity ball.
        steps: of projected gradient ascent, each of 2.5 radius / steps, at most the radius.
        noise: float as `x`, from -1 to 1; the start, in units of the radius.

    Returns:
        float as `x`, from 0 to 1, at most `radius` from it.
    """
    low, high = (x - radius).clamp_min(0), (x + radius).clamp_max(1)
    step = min(radius, 2.5 * radius / steps)
    moved = torch.minimum(torch.maximum(x + radius * noise, low), high)
    for _ in range(steps):
        moved = moved.detach().requires_grad_(True)
        loss = F.cross_entropy(model(moved), target)
        (gradient,) = torch.autograd.grad(loss, moved)
        moved = torch.minimum(torch.maximum(moved + step * gradient.sign(), low), high)
    return moved.detach()
