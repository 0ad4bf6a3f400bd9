"""Train a clone on what was asked and answered; all attacks share it."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from dpsd.attacks.extraction.endpoint import Endpoint
from dpsd.console import Say
from dpsd.defences.defence import Defence
from dpsd.errors import UserError
from dpsd.models.fit import FitRecipe, fit
from dpsd.models.frozen import Shape
from dpsd.models.networks import build_model
from dpsd.runs.release import Labeller

_BATCH, _PASSES, _LEAST_STEPS = 64, 12, 300
_HELD = 10  # every tenth answered image is not trained on
_SMALLEST = 1e-4  # a probability that was answered as 0
TEMPERATURE = 3.0
"""At which probabilities are learnt."""


@dataclass(frozen=True)
class Holdings:
    """What an attacker has besides the endpoint.

    Attributes:
        pool: images that it may ask about, uint8 [N, C, H, W]; of the same problem, of another, or
            made. None of them is a test row or a training row of the victim, unless said.
        ladder: after how many asked images a clone is wanted, rising; the last is the budget.
        model: the clone's architecture, for `build_model`.
        seed: of everything.
        passes: over the answered images, in training.
        least_steps: of training, where the answers are few.
        lr: largest learning rate.
        augment: of asked images in training, as in `teacher.augment`.
        known: defences that the attacker knows to be on, without their key.
        say: receives progress.
    """

    pool: Tensor
    ladder: tuple[int, ...]
    model: str = "cnn-small"
    seed: int = 0
    passes: int = _PASSES
    least_steps: int = _LEAST_STEPS
    lr: float = 5e-3
    augment: str = "shift"
    known: tuple[Defence, ...] = ()
    say: Say = field(default=lambda text: None)

    def brief(self, passes: int) -> "Holdings":
        """The same with so many passes and half of the least steps, for clones that pick images."""
        return replace(self, passes=passes, least_steps=max(1, self.least_steps // 2))

    def rng(self, name: str) -> torch.Generator:
        """The random stream of a part of an attack."""
        return torch.Generator().manual_seed(hash_seed(self.seed, name))


def hash_seed(seed: int, name: str) -> int:
    """A seed for a named part; the same on every machine."""
    value = seed
    for letter in name.encode():
        value = (value * 1_000_003 + letter) % (2**63 - 1)
    return value


@dataclass(frozen=True)
class Clone:
    """A copy after some questions.

    Attributes:
        asked: images that were asked until then.
        model: the clone, in evaluation mode: float images from 0 to 1 in, logits out.
        agreement: with the answers to held-out asked images, from 0 to 1, which an attacker can
            measure. None where every answer was used otherwise.
    """

    asked: int
    model: nn.Module
    agreement: float | None


Attack = Callable[[Endpoint, Holdings], Iterator[Clone]]
"""Asks, and gives a clone at each step of `Holdings.ladder`."""


@dataclass
class Transcript:
    """What was asked and answered so far: uint8 [N, C, H, W] and float32 [N, K].

    `asked` counts the images that were asked. An attack that makes one row of several answers has
    asked more images than it has rows.
    """

    images: Tensor
    answers: Tensor
    asked: int = 0

    @staticmethod
    def empty(endpoint: Endpoint) -> "Transcript":
        """Nothing asked."""
        no_images = torch.zeros(0, *endpoint.shape, dtype=torch.uint8)
        return Transcript(no_images, torch.zeros(0, endpoint.classes))

    def __len__(self) -> int:
        return len(self.images)

    def ask(self, endpoint: Endpoint, images: Tensor, account: int = 0) -> Tensor:
        """Ask about images, keep question and answer, and return the answers."""
        answers = self.probe(endpoint, images, account)
        self.add(images, answers)
        return answers

    def probe(self, endpoint: Endpoint, images: Tensor, account: int = 0) -> Tensor:
        """Ask about images, count them, and return the answers without a row for each."""
        answers = endpoint.ask(images, account)
        self.asked += len(images)
        return answers

    def add(self, images: Tensor, answers: Tensor) -> None:
        """Keep rows: uint8 [B, C, H, W] and probabilities, float [B, K]."""
        self.images = torch.cat([self.images, images])
        self.answers = torch.cat([self.answers, answers.float()])


def train_clone(
    transcript: Transcript,
    holdings: Holdings,
    *,
    shape: Shape,
    temperature: float | None = None,
    augment: Callable[[Tensor], Tensor] | None = None,
    held: Tensor | None = None,
    more: tuple[Tensor, Tensor] | None = None,
    start: nn.Module | None = None,
) -> Clone:
    """A clone of the answers.

    Every tenth answered image is held out, and the clone's agreement with its answer is reported.

    Args:
        transcript: what was asked and answered.
        holdings: architecture, seed and recipe.
        shape: of the images.
        temperature: None: learn the answered class (cross-entropy). Else: learn the probabilities,
            softened by this temperature on both sides (Hinton et al. 2015, section 2). The factor
            T^2 of that paper scales the loss, which AdamW does not see.
        augment: more to be done to images on their way, float [B, C, H, W] from 0 to 1.
        held: which rows of the transcript are held out, bool [N]; default: every tenth.
        more: images, uint8 [M, C, H, W], and targets, float [M, K], that are learnt as they are.
        start: a clone to go on from, changed in place; default: a fresh one.
    """
    images, answers = transcript.images, transcript.answers
    held = every_tenth(torch.arange(len(images))) if held is None else held
    targets = answers.argmax(1) if temperature is None else softened(answers, temperature)
    with torch.random.fork_rng():
        torch.manual_seed(hash_seed(holdings.seed, f"clone {len(images)}"))
        model = start or build_model(holdings.model, shape, answers.shape[1])
        model = model.to(memory_format=torch.channels_last)
        learner: nn.Module = model if temperature is None else _Tempered(model, temperature)
        if augment is not None:
            learner = nn.Sequential(_Changed(augment), learner)
        images_in, targets_in = images[~held], targets[~held]
        if more is not None:
            named = targets_in if targets_in.ndim == 2 else one_hot(targets_in, answers.shape[1])
            images_in, targets_in = torch.cat([images_in, more[0]]), torch.cat([named, more[1]])
        fit(learner, images_in, targets_in, recipe(len(images_in), holdings))
    model.eval().requires_grad_(False)
    return Clone(len(images), model, agreement(model, images[held], answers[held]))


def every_tenth(number: Tensor) -> Tensor:
    """Which rows are held out, bool [N], of the numbers of their questions, int64 [N]."""
    return number % _HELD == _HELD - 1


def one_hot(named: Tensor, classes: int) -> Tensor:
    """Float [N, K] of the named classes, int64 [N]."""
    return nn.functional.one_hot(named, classes).float()


def recipe(rows: int, holdings: Holdings) -> FitRecipe:
    """How a clone is trained on so many rows; few are seen more often."""
    size = min(_BATCH, max(1, rows))
    steps = max(holdings.passes * math.ceil(rows / size), holdings.least_steps)
    return FitRecipe(steps=steps, batch_size=size, lr=holdings.lr, augment=holdings.augment)


def softened(answers: Tensor, temperature: float) -> Tensor:
    """Probabilities at another temperature, float32 [N, K]; a 0 is taken as a very small one."""
    return (answers.clamp_min(_SMALLEST).log() / temperature).softmax(1)


def agreement(model: nn.Module, images: Tensor, answers: Tensor) -> float | None:
    """Share of images on which the clone names the answered class; None without images."""
    if not len(images):
        return None
    said = predict(model, images).argmax(1)
    return float((said == answers.argmax(1)).double().mean())


def predict(model: nn.Module, images: Tensor) -> Tensor:
    """A clone's probabilities, float32 [N, K], of uint8 images."""
    return Labeller(model, torch.device("cpu")).predict(images)


def staged(
    endpoint: Endpoint,
    holdings: Holdings,
    ask: Callable[[Transcript, int], None],
    train: Callable[[Transcript], Clone],
) -> Iterator[Clone]:
    """Ask up to each step of the ladder, then train.

    Args:
        endpoint: to ask.
        holdings: with the ladder.
        ask: asks at most so many more images and puts them into the transcript.
        train: gives a clone of the transcript.
    """
    transcript = Transcript.empty(endpoint)
    for step in holdings.ladder:
        ask(transcript, step - transcript.asked)
        yield replace(train(transcript), asked=transcript.asked)


def learnt(transcript: Transcript, holdings: Holdings, endpoint: Endpoint) -> Clone:
    """A clone that learns all that the endpoint gives: probabilities, else the named classes."""
    temperature = TEMPERATURE if endpoint.gives == "probabilities" else None
    return train_clone(transcript, holdings, shape=endpoint.shape, temperature=temperature)


def need_probabilities(endpoint: Endpoint, attack: str) -> None:
    """Refuse an endpoint that an attack can learn nothing from.

    Raises:
        UserError: the endpoint names classes alone.
    """
    if endpoint.gives != "probabilities":
        raise UserError(
            f"attack: {attack}, but answers are {endpoint.gives}; accepted: "
            "an endpoint that gives probabilities"
        )


def next_images(holdings: Holdings, asked: int, count: int, name: str) -> Tensor:
    """The next images of the pool in an order that the seed gives; each pass has another order."""
    n = len(holdings.pool)
    place = torch.arange(asked, asked + count)
    passes = [
        torch.randperm(n, generator=holdings.rng(name if i == 0 else f"{name} {i}"))
        for i in range((asked + count - 1) // n + 1)
    ]
    return holdings.pool[torch.cat([torch.zeros(0, dtype=torch.int64), *passes])[place]]


class _Tempered(nn.Module):
    def __init__(self, model: nn.Module, temperature: float) -> None:
        super().__init__()
        self.model, self.temperature = model, temperature

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.model(x) / self.temperature
        return out


class _Changed(nn.Module):
    def __init__(self, change: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.change = change

    def forward(self, x: Tensor) -> Tensor:
        return self.change(x)
