"""Show a guard what an attacker without data asks about: images of dpsd's own synthesizer."""

from collections.abc import Sequence

import torch
from torch import Tensor

from dpsd.config import Config, parse_config
from dpsd.generator.synthesizer import Synthesizer, Undecided
from dpsd.guard.detection.outliers import Floats, Outliers, fit_outliers
from dpsd.models.frozen import Shape
from dpsd.serving.predictor import Ask

SOURCES = ("blobs", "leaves", "photographs", "spectra", "strokes")
_EACH, _BATCH = 1_000, 256


def seen(ask: Ask, images: Tensor) -> tuple[Floats, Floats]:
    """What the guard sees of images uint8 [N, C, H, W]: features [N, F] and answers [N, K]."""
    parts = [ask(part) for part in images.split(_BATCH)]
    answers, features = (torch.cat([part[i] for part in parts]).numpy() for i in (0, 1))
    return features, answers


def made(shape: Shape, classes: int, seed: int, sources: Sequence[str] = SOURCES) -> Tensor:
    """A thousand images of each source, uint8 [N, C, H, W], from public facts alone."""
    config = _config(shape, classes, seed, sources)
    maker = Synthesizer(config, config.facts, torch.device("cpu"))
    return maker.sample(_EACH * len(sources), Undecided(classes), round=0)


def expose(
    ask: Ask, honest: tuple[Floats, Floats], shape: Shape, seed: int,
    sources: Sequence[str] = SOURCES, more: Tensor | None = None,
) -> Outliers:  # fmt: skip
    """Teach a detector to tell honest questions from the synthesizer's images.

    Args:
        ask: the served student.
        honest: features and answers of honest questions, on which nobody is calibrated.
        shape: C, H, W.
        seed: of all that is drawn.
        sources: of the synthesizer.
        more: images that an attacker may ask about too, uint8 [M, C, H, W].
    """
    images = made(shape, honest[1].shape[1], seed % 2**31, sources)
    if more is not None:
        images = torch.cat([images, more])
    return fit_outliers(*honest, seen(ask, images), seed)


def _config(shape: Shape, classes: int, seed: int, sources: Sequence[str]) -> Config:
    channels, height, width = shape
    return parse_config({
        "data": {"name": "none", "shape": [channels, height, width], "classes": classes},
        "privacy": {"mechanism": "none"}, "seed": seed,
        "generator": {"shares": dict.fromkeys(sources, 1.0), "recombine": 0},
    })  # fmt: skip
