"""What changes a student sees: the release's own synthetic images, and the student's labels."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dpsd.config import Config, PublicFacts, load_config
from dpsd.device import pick_device
from dpsd.models.fit import FitRecipe, fit
from dpsd.models.networks import build_model
from dpsd.runs.folder import Run
from dpsd.runs.release import Labeller, load_student, release_folder, released_synthesizer

_ROUND = -(2**32)  # random streams that neither training rounds nor samples use
_SMALLEST = 1e-4
COPY_TEMPERATURE = 3.0


@dataclass(frozen=True)
class Base:
    """A released student and images to change or test it with; no private row enters.

    Attributes:
        config: of the release.
        student: the released one, frozen.
        images: uint8 [N, C, H, W], synthetic.
        probabilities: the student's, float32 [N, K].
    """

    config: Config
    student: nn.Module
    images: Tensor
    probabilities: Tensor

    @property
    def facts(self) -> PublicFacts:
        """Shape and classes."""
        return self.config.facts

    @property
    def labels(self) -> Tensor:
        """The student's classes, int64 [N]."""
        return self.probabilities.argmax(1)


def base_of(run: Run, n: int, stream: int = 0) -> Base:
    """The run's student with `n` synthetic images.

    Args:
        run: finished.
        n: images.
        stream: another number gives other images.

    Raises:
        UserError: the run has not finished.
    """
    config = load_config(release_folder(run) / "config.yaml")
    device = pick_device(config.device)
    student = load_student(run)
    labeller = Labeller(student, device)
    images = released_synthesizer(run, device).sample(n, labeller, round=_ROUND - stream)
    return Base(config, student, images, labeller.predict(images))


def answers_of(model: nn.Module, images: Tensor) -> Tensor:
    """A model's probabilities, float32 [N, K] on the CPU, of uint8 images."""
    return Labeller(model, next(model.parameters()).device).predict(images)


def ordinary_copy(
    base: Base, seed: int, steps: int = 400, answers: Tensor | None = None
) -> nn.Module:
    """A fresh model of the student's architecture that learned its probabilities by distillation.

    Args:
        base: student and images.
        seed: of weights and order.
        steps: of training.
        answers: float32 [N, K] to learn in place of the student's own.
    """
    answers = base.probabilities if answers is None else answers
    targets = (answers.clamp_min(_SMALLEST).log() / COPY_TEMPERATURE).softmax(1)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = build_model(base.config.student.model, base.facts.shape, base.facts.classes)
        model = model.to(memory_format=torch.channels_last)
        size = min(64, len(base.images))
        recipe = FitRecipe(steps=steps, batch_size=size, lr=5e-3, augment="shift")
        fit(_Softened(model), base.images, targets, recipe)
    return model.eval().requires_grad_(False)


class _Softened(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.model(x) / COPY_TEMPERATURE
        return logits
