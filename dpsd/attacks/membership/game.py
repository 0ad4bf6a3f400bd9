"""The membership game: a profile in which there is something to find, and its shadow models.

Each model is trained on its own random half of a pool of rows. Every fifth row is a canary under a
wrong label. Model 0 is the target, the others are the attacker's shadow models. One recipe that
overfits trains all of them, many at once. For the distillation form each teacher gets a student, by
the run's own mechanism and loop.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dpsd.attacks.statistics import Floats, Mask
from dpsd.config import Config, PublicFacts
from dpsd.config.sections import TeacherConfig
from dpsd.console import working
from dpsd.data.load import PrivateData, Split, join_splits
from dpsd.data.rows import Images
from dpsd.device import pick_device, pick_dtype
from dpsd.errors import UserError
from dpsd.generator.synthesizer import Synthesizer
from dpsd.models.networks import ConvNet, build_model
from dpsd.models.stacked import stacked_logits
from dpsd.privacy.mechanisms.base import Answers
from dpsd.privacy.noise import NoiseSource
from dpsd.privacy.oracle import Prior
from dpsd.privacy.plan import Plan, make_plan
from dpsd.randomness import KEY_BYTES
from dpsd.student.bank import Bank
from dpsd.student.student import Student
from dpsd.teachers.members import Members, chunks, train_members
from dpsd.transcription.loop import distil
from dpsd.transcription.session import Session

Ask = Callable[[Tensor], Tensor]
_MOST = 1000  # rows that a model is trained on
_LEAST = 50
_CANARIES = 5  # every fifth
_POPULATION = 500


@dataclass(frozen=True)
class Game:
    """Rows, and which model is trained on which of them. The labels of canaries are wrong.

    Attributes:
        rows: images and labels of the pool, N of them.
        canary: bool [N].
        trained: rows of the private training split (not of the holdout), bool [N]: the run's own
            teacher may have seen them, under their true label.
        inside: which model is trained on which row, bool [1 + S, N]; model 0 is the target.
        population: rows that no model is trained on.
    """

    rows: Split
    canary: Mask
    trained: Mask
    inside: Mask
    population: Split


def make_game(data: PrivateData, classes: int, *, shadows: int, seed: int) -> Game:
    """The rows of a game, dealt by the seed.

    Args:
        data: private; test rows are not used.
        classes: K.
        shadows: S.
        seed: of everything.

    Raises:
        UserError: there are too few rows, or none is held out.
    """
    rng = np.random.default_rng([seed, 0x3E])
    total = len(data.train) + len(data.holdout)
    spare = min(_POPULATION, total // 10)
    half = min(_MOST, (total - spare) // 2)
    if half < _LEAST or not len(data.holdout):
        accepted = f"at least {int(2.3 * _LEAST)}, some of them held out"
        raise UserError(f"data: {total} rows for a membership game; accepted: {accepted}")
    held = rng.permutation(len(data.holdout)) + len(data.train)
    train = rng.permutation(len(data.train))
    out = held[:half]
    pool = np.concatenate([out, train[: 2 * half - len(out)]])
    rest = np.concatenate([held[half:], train[2 * half - len(out) :]])
    pool = rng.permutation(pool)
    whole = join_splits(data.train, data.holdout)
    chosen = whole.labels[pool].clone()
    others = torch.from_numpy(rest[:spare])
    canary = np.arange(len(pool)) % _CANARIES == 0
    shift = torch.from_numpy(rng.integers(1, classes, len(pool)))
    chosen = torch.where(torch.from_numpy(canary), (chosen + shift) % classes, chosen)
    return Game(
        rows=Split(whole.images[torch.from_numpy(pool)], chosen),
        canary=canary,
        trained=pool < len(data.train),
        inside=_halves(1 + shadows, canary, rng),
        population=Split(whole.images[others], whole.labels[others]),
    )


def _halves(models: int, canary: Mask, rng: np.random.Generator) -> Mask:
    """Half of the canaries and half of the others for each model.

    Shadow models come in pairs of complements, so that half of them are trained on each row.
    """
    inside = np.zeros((models, len(canary)), dtype=bool)
    for m in range(models):
        if m and m % 2 == 0:
            inside[m] = ~inside[m - 1]
            continue
        for kind in (canary, ~canary):
            rows = rng.permutation(np.flatnonzero(kind))
            inside[m, rows[: len(rows) // 2]] = True
    return inside


def train_teachers(
    game: Game, config: Config, *, model: str, steps: int, seed: int, say: Callable[[str], None]
) -> list[Ask]:
    """Train target and shadows until they overfit.

    Args:
        game: decides which rows each model is trained on.
        config: of which device, precision and the public facts of the data are read.
        model: an architecture of dpsd.
        steps: of batches of 32, without augmentation.
        seed: of weights and draws.
        say: receives progress.

    Returns:
        For each model a function from uint8 images [B, C, H, W] to logits float32 [B, K].
    """
    facts, device = config.facts, pick_device(config.device)
    dtype = pick_dtype(config.precision, device)
    recipe = TeacherConfig(
        model=model, shards=len(game.inside), shard_steps=steps, shard_batch=32, lr=0.005,
        augment="none",
    )  # fmt: skip
    key = seed.to_bytes(8, "little").ljust(KEY_BYTES, b"m")
    asks: list[Ask] = []
    working("membership: shadow teachers", 0, len(game.inside))
    for chunk in chunks(len(game.inside)):
        rows = {m: torch.from_numpy(np.flatnonzero(game.inside[m])) for m in chunk}
        members = Members(game.rows.images, game.rows.labels, rows, key)
        weights = train_members(recipe, facts, members, device=device, dtype=dtype)
        weights.pop("empty")
        asks += [_asking(model, facts, weights, i, device) for i in range(len(chunk))]
        working("membership: shadow teachers", chunk.stop, len(game.inside))
    return asks


def _asking(
    model: str, facts: PublicFacts, weights: dict[str, Tensor], i: int, device: torch.device
) -> Ask:
    net = build_model(model, facts.shape, facts.classes, norm="group")
    assert isinstance(net, ConvNet)
    mine = {name: w[i : i + 1].to(device) for name, w in weights.items()}

    @torch.inference_mode()
    def ask(images: Tensor) -> Tensor:
        parts = (x.to(device).float() / 255 for x in images.split(256))
        logits = [stacked_logits(net, mine, x, torch.float32)[0].cpu() for x in parts]
        return torch.cat(logits).clone()

    return ask


class ShadowDoor:
    """Answers of an attacker's own teacher through a mechanism; nobody's budget is charged."""

    def __init__(self, ask: Ask, plan: Plan, seed: bytes) -> None:
        self._ask, self._plan, self._noise = ask, plan, NoiseSource(seed)
        self.position, self.seconds = 0, dict[str, float]()

    def fresh(self, images: Tensor) -> Tensor:
        """Every image may be asked, bool [B]."""
        return torch.ones(len(images), dtype=torch.bool)

    def answer(self, images: Tensor, prior: Prior | None = None) -> Answers:
        """The shadow teacher's answers, privatised."""
        mechanism = self._plan.mechanism
        believed = prior(images).cpu() if mechanism.uses_prior and prior is not None else None
        self.position += len(images)
        return mechanism.release(self._ask(images).softmax(1), believed, self._noise)

    def recall(self, position: int) -> None:
        """Does nothing: no answer is kept."""

    def federation(self) -> None:
        """Does nothing: no client answers."""


def distil_student(ask: Ask, config: Config, seed: int) -> Ask:
    """A student of this teacher by the run's own loop and mechanism.

    Returns:
        A function from uint8 images [B, C, H, W] to log-probabilities float32 [B, K].
    """
    plan = make_plan(config)
    device = pick_device(config.device)
    config = config.model_copy(update={"seed": seed})
    student = Student(
        config, plan.facts, rounds=plan.rounds, queries_per_round=plan.queries_per_round,
        soft_targets=plan.mechanism.soft_targets, device=device,
        dtype=pick_dtype(config.precision, device),
    )  # fmt: skip
    bank = Bank(plan.answers, plan.facts.shape, plan.facts.classes)
    door = ShadowDoor(ask, plan, f"shadow {seed}".encode())
    synthesizer = Synthesizer(config, plan.facts, device)
    session = Session(plan, student, synthesizer, bank, door)
    distil(session, after_round=lambda round, figures: None)
    return lambda images: student.predict(images).clamp_min(1e-12).log()


def logits_on(ask: Ask, images: Images) -> Floats:
    """A model's logits of many images, float64 [N, K]."""
    logits = torch.cat([ask(x).cpu() for x in images.split(512)])
    return np.asarray(logits.double().numpy())


def accuracy_on(logits: Floats, labels: NDArray[np.int64]) -> float:
    """Share of rows whose largest logit is the label's."""
    return float((logits.argmax(1) == labels).mean()) if len(labels) else 0.0
