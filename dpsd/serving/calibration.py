"""Calibrate a run's guard: on images like honest questions, or on logged honest traffic."""

import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision.transforms.functional import gaussian_blur, rotate

from dpsd.config import PublicFacts
from dpsd.console import Say
from dpsd.errors import UserError
from dpsd.guard.detection.calibrate import calibrate
from dpsd.guard.detection.outliers import Floats, Outliers
from dpsd.guard.detection.reference import Reference
from dpsd.guard.detection.traffic import Bank, honest_accounts
from dpsd.guard.offline.calibration import calibrate_on_logs, enough_accounts
from dpsd.imports import brief
from dpsd.models.frozen import Shape
from dpsd.serving.decode import BadRequest, Sizes, read_pictures
from dpsd.serving.exposure import SOURCES, expose, seen
from dpsd.serving.predictor import Ask

_LEAST = 500  # images
_SUFFIXES = (".png", ".jpg", ".jpeg")


@dataclass(frozen=True)
class Questions:
    """What honest accounts may ask, as the guard sees it.

    Attributes:
        features: float32 [V * N, F]; N plain questions, then V - 1 altered versions of them all.
        answers: probabilities float32 [V * N, K].
        bank: their classes, and V.
    """

    features: NDArray[np.float32]
    answers: NDArray[np.float32]
    bank: Bank


def read_images(path: Path, shape: Shape, option: str = "--images") -> Tensor:
    """uint8 [N, C, H, W] of an npz file with `images`, or of a folder of PNG and JPEG files.

    Raises:
        UserError: nothing readable, images of another shape, or fewer than 500.
    """
    if path.is_dir():
        files = sorted(p for p in path.rglob("*") if p.suffix.lower() in _SUFFIXES)
        sizes = Sizes(shape, 1, 2**26)
        try:
            images = torch.cat([read_pictures([p.read_bytes()], sizes) for p in files]
                               or [torch.zeros(0, *shape, dtype=torch.uint8)])  # fmt: skip
        except BadRequest as e:
            raise UserError(f"{option}: {path}: {e}") from e
    else:
        try:
            with np.load(path, allow_pickle=False) as file:
                images = torch.from_numpy(file["images"])
        except Exception as e:
            raise UserError(f"{option}: {path}: {brief(e)}; accepted: a folder of PNG and JPEG "
                            "files, or an npz file with images") from e  # fmt: skip
    if images.dtype != torch.uint8 or tuple(images.shape[1:]) != shape:
        raise UserError(f"{option}: {path}: {images.dtype} {list(images.shape)}; accepted: uint8 "
                        f"[N, {', '.join(map(str, shape))}]")  # fmt: skip
    if len(images) < _LEAST:
        raise UserError(f"{option}: {path}: {len(images)} images; accepted: at least {_LEAST}")
    return images


def altered(images: Tensor, seed: int = 0) -> Iterator[Tensor]:
    """The images, then blurred, turned by up to 20 degrees, darker, and noisy.

    Args:
        images: uint8 [N, C, H, W].
        seed: of the noise.

    Yields:
        uint8 [N, C, H, W], five times.
    """
    yield images
    yield gaussian_blur(images, 5, 0.7)
    angles = (-20, -12, 12, 20)
    yield torch.stack([rotate(x, angles[i % 4]) for i, x in enumerate(images)])
    yield (images * 0.8).to(torch.uint8)
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(seed))
    yield (images + 18 * noise).clamp(0, 255).to(torch.uint8)


def questions(ask: Ask, images: Tensor) -> Questions:
    """What the guard sees of images and of altered versions of them."""
    features, answers = map(np.concatenate, zip(*(seen(ask, x) for x in altered(images)),
                                                strict=True))  # fmt: skip
    classes = answers[: len(images)].argmax(1)
    return Questions(features, answers, Bank(classes, len(answers) // len(images)))


def calibrate_guard(
    ask: Ask, images: Tensor, *, alpha: float, accounts: int, say: Say, seed: int | None = None,
    outliers: Tensor | None = None,
) -> Reference:  # fmt: skip
    """Calibrate on simulated honest accounts that ask about the images for a month.

    Args:
        ask: the served student.
        images: uint8 [N, C, H, W], declared to be like honest questions.
        alpha: false-alarm rate of an account in a month.
        accounts: that are simulated; three fifths of them set the alarm level.
        say: receives a line.
        seed: of all that is drawn; None: secret, as a service's must be.
        outliers: images that an attacker may ask about, beside those of the synthesizer.

    Raises:
        UserError: too few accounts for the rate.
    """
    enough_accounts(accounts, alpha, "--accounts")
    seed = secrets.randbits(63) if seed is None else seed
    bank, taught = bank_and_outliers(ask, images, seed, more=outliers)
    streams = [stream for _, stream in honest_accounts(bank.bank, accounts, seed=seed)]
    say(f"{accounts:,} simulated honest accounts, {sum(len(s.rows) for s in streams):,} questions "
        f"about {len(images):,} images")  # fmt: skip
    return calibrate(bank.features, bank.answers, None, streams, alpha=alpha, seed=seed,
                     outliers=taught)  # fmt: skip


def bank_and_outliers(
    ask: Ask, images: Tensor, seed: int, sources: Sequence[str] = SOURCES,
    more: Tensor | None = None,
) -> tuple[Questions, Outliers]:  # fmt: skip
    """What two thirds of the images can be asked as, and a detector taught on the last third.

    Args:
        ask: the served student.
        images: uint8 [N, C, H, W], like honest questions.
        seed: of the split, and of all that the detector is taught with.
        sources: of the synthesizer, whose images it is shown.
        more: images that it is shown beside these, uint8 [M, C, H, W].
    """
    order = torch.from_numpy(np.random.default_rng(seed).permutation(len(images)))
    third = len(images) // 3
    taught = questions(ask, images[order[:third]])
    outliers = expose(ask, (taught.features, taught.answers), _shape(images), seed, sources, more)
    return questions(ask, images[order[third:]]), outliers


def _shape(images: Tensor) -> Shape:
    channels, height, width = images.shape[1:]
    return channels, height, width


def calibrate_on_traffic(
    logs: Sequence[Path], ask: Ask, facts: PublicFacts, *, alpha: float, say: Say,
    outliers: Tensor | None = None,
) -> Reference:  # fmt: skip
    """Calibrate on logged accounts of the served student; see `calibrate_on_logs`.

    Args:
        logs: with features and answers of the served student, see `dpsd.guard.offline.logged`.
        ask: the served student.
        facts: its images and classes.
        alpha: false-alarm rate of an account in a month, or in the time of shorter logs.
        say: receives a line.
        outliers: images that an attacker may ask about, beside those of the synthesizer.

    Raises:
        UserError: logs of another model, or too few accounts or questions for the rate.
    """
    _, one = ask(torch.zeros(1, *facts.shape, dtype=torch.uint8))
    seed = secrets.randbits(63)

    def teach(features: Floats, answers: Floats) -> Outliers:
        return expose(ask, (features, answers), facts.shape, seed, more=outliers)

    return calibrate_on_logs(logs, alpha=alpha, say=say, width=one.shape[1], classes=facts.classes,
                             teach=teach)  # fmt: skip
