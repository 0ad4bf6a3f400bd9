"""The search for images that a model takes for a class, and its budgets."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from dpsd.attacks.inversion.priors import ImagePrior
from dpsd.attacks.inversion.targets import Logits

Loss = Callable[..., Tensor]


@dataclass(frozen=True)
class Budget:
    """What every target is attacked with."""

    attacks: tuple[str, ...]
    seeds: int
    images: int
    """Reconstructions with each seed, shared evenly by the classes: at least one each."""
    draws: int
    """Random draws of the prior for each of them; the one that the model likes best is refined."""
    steps: int
    """Gradient steps on each."""
    gan_steps: int
    pool: int
    """Synthetic images of the released synthesizer among which the `released` attack chooses."""
    noise_free_answers: int
    """At most so many answers for the noise-free student."""
    judge_steps: int
    knowledge_steps: int
    """Training steps of the network that learns from reconstructions alone."""
    helpers: int = 2
    """lomma: surrogates. The name of the field stands in every `report.json`."""
    helper_steps: int = 1_000
    kedmi_steps: int = 4_000
    """Updates of the generator, which is trained anew for every target."""

    def per_class(self, classes: int) -> int:
        """Reconstructions of each class with each seed."""
        return max(1, self.images // classes)


BUDGETS = {
    "fast": Budget(
        ("total_variation", "gmi", "released"), seeds=2, images=20, draws=8, steps=60,
        gan_steps=120, pool=2_000, noise_free_answers=6_000, judge_steps=200, knowledge_steps=40,
    ),
    "standard": Budget(
        ("gmi", "released"), seeds=3, images=80, draws=16, steps=300, gan_steps=3_000,
        pool=20_000, noise_free_answers=100_000, judge_steps=1_000, knowledge_steps=150,
    ),
    "full": Budget(
        ("total_variation", "gmi", "released", "kedmi", "lomma"), seeds=5, images=120,
        draws=16, steps=800,
        gan_steps=8_000, pool=50_000, noise_free_answers=200_000, judge_steps=1_500,
        knowledge_steps=300,
    ),
}  # fmt: skip


def search(
    prior: ImagePrior,
    models: Sequence[Logits],
    labels: Tensor,
    budget: Budget,
    rng: torch.Generator,
    loss: Loss = F.cross_entropy,
) -> Tensor:
    """Images that the model takes for the labels, uint8 [R, C, H, W].

    Of `draws` random draws for each image the one that the model likes best is refined by Adam on
    weight * loss + penalty, under random shifts of up to a fourteenth of the side, which keep the
    search from patterns that fool the model at one place only.

    Args:
        prior: what images are like.
        models: the attacked one and its surrogates; without models the images are random draws from
            the prior.
        labels: int64 [R].
        budget: draws and steps.
        rng: of draws and shifts.
        loss: of logits [B, K], labels [B] and `reduction`, averaged over the models.
    """

    def cost(x: Tensor, wanted: Tensor) -> Tensor:
        losses = [loss(logits(x).cpu(), wanted, reduction="none") for logits in models]
        return torch.stack(losses).mean(0)

    n = len(labels)
    p = prior.start(n * (budget.draws if models else 1), rng)
    if models:
        with torch.no_grad():
            wanted = labels.repeat_interleave(budget.draws)
            parts = [
                cost(prior.decode(x), y)
                for x, y in zip(p.split(512), wanted.split(512), strict=True)
            ]
        best = torch.cat(parts).view(n, budget.draws).argmin(1)
        p = p.view(n, budget.draws, *p.shape[1:])[torch.arange(n), best]
    start = p.detach().clone()
    p = start.clone().requires_grad_(True)
    adam = torch.optim.Adam([p], lr=prior.lr)
    steps = budget.steps if models or prior.descend_alone else 0
    for _ in range(steps):
        x = prior.decode(p)
        total = prior.penalty(start, p, x).sum()
        if models:
            height, width = x.shape[2:]
            dy, dx = (
                int(torch.randint(-(side // 14), side // 14 + 1, (), generator=rng))
                for side in (height, width)
            )
            total = total + prior.weight * cost(x.roll((dy, dx), (2, 3)), labels).sum()
        adam.zero_grad()
        total.backward()
        adam.step()
    with torch.no_grad():
        return (prior.decode(p) * 255).round().to(torch.uint8)
