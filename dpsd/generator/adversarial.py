"""The trainable generator: learns from the student alone which images to ask about next."""

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dpsd.config.sections import GeneratorConfig
from dpsd.generator.fields import FieldGenerator, untrained
from dpsd.models.networks import logits_and_features
from dpsd.student.losses import LEAST
from dpsd.student.student import Student


class Generator(nn.Module):
    """DCGAN-style decoder: latent [B, Z] -> images float32 in [0, 1], [B, C, H, W]."""

    def __init__(self, latent: int, shape: tuple[int, int, int], width: int = 32) -> None:
        super().__init__()
        c, self.height, self.width = shape
        self.latent, self.start = latent, ((self.height + 3) // 4, (self.width + 3) // 4)
        self.project = nn.Linear(latent, 2 * width * self.start[0] * self.start[1])
        self.body = nn.Sequential(
            nn.BatchNorm2d(2 * width),
            nn.Upsample(scale_factor=2),
            nn.Conv2d(2 * width, 2 * width, 3, padding=1, bias=False),
            nn.BatchNorm2d(2 * width),
            nn.LeakyReLU(0.2),
            nn.Upsample(scale_factor=2),
            nn.Conv2d(2 * width, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.LeakyReLU(0.2),
            nn.Conv2d(width, c, 3, padding=1),
        )

    def forward(self, z: Tensor) -> Tensor:
        """Images of latent vectors."""
        x = self.project(z).view(len(z), -1, *self.start)
        return torch.sigmoid(self.body(x)[:, :, : self.height, : self.width])


def generator_loss(
    images: Tensor, student: nn.Module, average: nn.Module, config: GeneratorConfig
) -> dict[str, Tensor]:
    """Named losses of the generator, all of the student's reaction (arXiv 2601.19090, section 4).

    Args:
        images: float32 [B, C, H, W] from the generator, with gradient.
        student: frozen, in evaluation mode.
        average: the student's moving average, for the optional disagreement.
        config: weights of the losses.

    Returns:
        `classification` CE(student(x), argmax student(x)); `entropy` minus the entropy of the
        batch-mean prediction, for class balance; `activation` -mean|features|; `disagreement`
        minus the L1 distance of student and moving average, against collapse; `total`.
    """
    logits, features = logits_and_features(student, images)
    mean = logits.softmax(1).mean(0)
    losses = {
        "classification": F.cross_entropy(logits, logits.argmax(1)),
        # Clamped: at a probability of exactly 0 the gradient would not be finite.
        "entropy": (mean * mean.clamp_min(LEAST).log()).sum(),
        "activation": -features.abs().mean(),
        "disagreement": -(logits.softmax(1) - average(images).softmax(1)).abs().sum(1).mean(),
    }
    losses["total"] = sum(
        (getattr(config, name) * loss for name, loss in losses.items()), torch.zeros(())
    )
    return losses


class Adversarial:
    """The generator and its optimiser; `update` needs the student, `sample` nothing but the seed.

    Args:
        config: of the synthesizer.
        shape: (C, H, W).
        seed: of the first weights.
        device: where the network lives.
    """

    def __init__(
        self, config: GeneratorConfig, shape: tuple[int, int, int], seed: int, device: torch.device
    ) -> None:
        self.config, self.shape, self.device = config, shape, device
        self._start(seed)

    def _start(self, seed: int) -> None:
        """Random weights and a fresh optimiser."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network = FieldGenerator if self.config.network == "fields" else Generator
            model: FieldGenerator | Generator = network(self.config.latent, self.shape)
        self.model = model.to(self.device).to(memory_format=torch.channels_last)
        self.optimizer = torch.optim.Adam(
            self.model.parameters(), lr=self.config.lr, betas=(0.5, 0.99)
        )

    @torch.no_grad()
    def sample(self, n: int, rng: torch.Generator) -> Tensor:
        """uint8 images [n, C, H, W] on the CPU; all randomness from `rng`.

        The share `generator.untrained` of them comes from networks with random weights of their
        own, the rest from the network that was trained.
        """
        fresh, parts = round(n * self.config.untrained), []
        if fresh:
            parts.append(untrained(fresh, self.shape, self.config.latent, rng, self.device))
        if fresh == n > 0:
            return parts[0]
        self.model.eval()
        z = torch.randn(n - fresh, self.config.latent, generator=rng)
        for part in z.split(1024):
            images = self.model(part.to(self.device)).cpu()
            parts.append((images * 255).round().to(torch.uint8))
        return torch.cat(parts)

    def update(
        self, student: Student, rng: torch.Generator, batch: int = 128, *, round: int = 0
    ) -> dict[str, float]:
        """`steps` updates against a frozen copy of the student; returns the last losses.

        In every round that is a multiple of `generator.restart` the weights are drawn anew first.
        """
        if self.config.restart is not None and round % self.config.restart == 0:
            self._start(int(torch.randint(2**62, (1,), generator=rng)))
        frozen = copy.deepcopy(student.model).eval().requires_grad_(False)
        self.model.train()
        losses: dict[str, Tensor] = {}
        for _ in range(self.config.steps):
            z = torch.randn(batch, self.config.latent, generator=rng).to(self.device)
            losses = generator_loss(self.model(z), frozen, student.average, self.config)
            self.optimizer.zero_grad()
            losses["total"].backward()
            self.optimizer.step()
        return {f"generator_{name}": float(loss.detach()) for name, loss in losses.items()}
