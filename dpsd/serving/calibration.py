"""Calibrate a run's guard on images that its operator declares to be like honest questions."""

import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision.transforms.functional import gaussian_blur, rotate

from dpsd.console import Say
from dpsd.errors import UserError
from dpsd.guard.reference import Reference, calibrate
from dpsd.guard.traffic import Bank, honest_accounts
from dpsd.imports import brief
from dpsd.models.frozen import Shape
from dpsd.serving.decode import BadRequest, Sizes, read_pictures
from dpsd.serving.predictor import Ask

_BATCH = 256
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


def read_images(path: Path, shape: Shape) -> Tensor:
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
            raise UserError(f"--images: {path}: {e}") from e
    else:
        try:
            with np.load(path, allow_pickle=False) as file:
                images = torch.from_numpy(file["images"])
        except Exception as e:
            raise UserError(f"--images: {path}: {brief(e)}; accepted: a folder of PNG and JPEG "
                            "files, or an npz file with images") from e  # fmt: skip
    if images.dtype != torch.uint8 or tuple(images.shape[1:]) != shape:
        raise UserError(f"--images: {path}: {images.dtype} {list(images.shape)}; accepted: uint8 "
                        f"[N, {', '.join(map(str, shape))}]")  # fmt: skip
    if len(images) < _LEAST:
        raise UserError(f"--images: {path}: {len(images)} images; accepted: at least {_LEAST}")
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
    answers, features = [], []
    for version in altered(images):
        for part in version.split(_BATCH):
            said, seen = ask(part)
            answers.append(said.numpy())
            features.append(seen.numpy())
    whole = np.concatenate(answers)
    classes = whole[: len(images)].argmax(1)
    return Questions(np.concatenate(features), whole, Bank(classes, len(whole) // len(images)))


def calibrate_guard(
    ask: Ask, images: Tensor, *, alpha: float, accounts: int, say: Say, seed: int | None = None
) -> Reference:
    """Calibrate on simulated honest accounts that ask about the images for a month.

    Args:
        ask: the served student.
        images: uint8 [N, C, H, W], declared to be like honest questions.
        alpha: false-alarm rate of an account in a month.
        accounts: that are simulated; three fifths of them set the alarm level.
        say: receives a line.
        seed: of all that is drawn; None: secret, as a service's must be.

    Raises:
        UserError: too few accounts for the rate.
    """
    needed = int(np.ceil((1 / alpha - 1) * 5 / 3 - 1e-9)) + 1
    if accounts < needed:
        raise UserError(f"--accounts: {accounts:,}; a false-alarm rate of {alpha:g} an account "
                        f"needs at least {needed:,}")  # fmt: skip
    seed = secrets.randbits(63) if seed is None else seed
    seen = questions(ask, images)
    streams = [stream for _, stream in honest_accounts(seen.bank, accounts, seed=seed)]
    say(f"{accounts:,} simulated honest accounts, {sum(len(s.rows) for s in streams):,} questions "
        f"about {len(images):,} images")  # fmt: skip
    return calibrate(seen.features, seen.answers, None, streams, alpha=alpha, seed=seed)
