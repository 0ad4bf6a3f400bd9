"""The facts about the data that are declared public: known from the configuration alone."""

import difflib
import functools
from dataclasses import dataclass

from dpsd.config.sections import DataConfig, GeneratorConfig, Photograph
from dpsd.errors import UserError
from dpsd.imports import meant


@dataclass(frozen=True)
class NamedData:
    """A public benchmark that dpsd knows by name."""

    shape: tuple[int, int, int]
    """Channels, height, width."""
    class_names: tuple[str, ...]
    rows: int
    """Training rows, without the tenth that is held out."""


_DIGITS = tuple("0123456789")
_FASHION = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag",
    "Ankle boot",
)  # fmt: skip
_CIFAR = (
    "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
)  # fmt: skip
NAMED = {
    "digits": NamedData((1, 28, 28), _DIGITS, 1295),
    "mnist": NamedData((1, 28, 28), _DIGITS, 54_000),
    "fashion_mnist": NamedData((1, 28, 28), _FASHION, 54_000),
    "cifar10": NamedData((3, 32, 32), _CIFAR, 45_000),
    "cifar10_jpeg": NamedData((3, 32, 32), _CIFAR, 45_000),
    "att_faces": NamedData((1, 112, 92), tuple(f"person {i}" for i in range(40)), 252),
}
_OTHERS = ("image_folder", "webdataset", "npz", "none")
NUMBERED = ("image_folder", "webdataset")
"""Data on disk whose order may depend on the class: a manifest numbers their rows."""
_ACCEPTED = f"{', '.join((*NAMED, *_OTHERS))} or an import path package.module:callable"


SHIPPED_PHOTOGRAPHS = (
    Photograph(
        file="china.jpg",
        sha256="8378025ad2519d649d02e32bd98990db4ab572357d9f09841c2fbfbb4fefad29",
    ),
    Photograph(
        file="flower.jpg",
        sha256="a77f6ec41e353afdf8bdff2ea981b2955535d8d83294f8cfa49cf4e423dd5638",
    ),
)
"""The photographs that come with scikit-learn: CC BY 2.0, by danielbuechele and by vultilion."""


def drawn_shares(generator: GeneratorConfig) -> dict[str, float]:
    """The shares above 0 of sources that are drawn, by name; none for images of a user's source."""
    if generator.kind == "images":
        return {}
    if generator.kind == "adversarial":
        return {"adversarial": 1.0}
    left_out = "adversarial" if generator.kind == "procedural" else ""
    return {k: v for k, v in generator.shares.items() if v > 0 and k != left_out}


def public_photographs(generator: GeneratorConfig) -> tuple[Photograph, ...]:
    """The photographs that a run's images are cut from; none without a share of photographs."""
    if "photographs" not in drawn_shares(generator):
        return ()
    return SHIPPED_PHOTOGRAPHS if generator.photographs is None else generator.photographs


@dataclass(frozen=True)
class PublicFacts:
    """What everybody may know about the data. The statement repeats it."""

    shape: tuple[int, int, int]
    """Channels, height, width."""
    classes: int
    class_names: tuple[str, ...]
    pixel_range: tuple[int, int] = (0, 255)


@functools.lru_cache
def public_facts(config: DataConfig) -> PublicFacts:
    """Shape, classes and pixel range from the configuration alone; no data are read.

    Raises:
        UserError: an unknown name, a missing declaration, or one that contradicts a named set.
    """
    name, shape, classes = config.name, config.shape, config.classes
    if shape is not None and min(shape) < 1:
        raise UserError(f"data.shape: {list(shape)}; accepted: [C, H, W], each from 1")
    if shape is not None and shape[2] in (1, 3) and shape[0] > 4:
        height, width, channels = shape
        accepted = f"channels, height, width; did you mean {[channels, height, width]}?"
        raise UserError(f"data.shape: {list(shape)}; accepted: {accepted}")
    if (named := NAMED.get(name)) is not None:
        names = named.class_names
        if config.class_names not in (None, names):
            raise UserError(f"data.class_names: {name} has names of its own; accepted: null")
        if classes not in (None, len(names)):
            raise UserError(f"data.classes: {classes}, but {name} has {len(names)}")
        resized = name == "att_faces" and shape is not None and shape[0] == 1
        if shape not in (None, named.shape) and not resized:
            raise UserError(f"data.shape: {list(shape or ())}, but {name} has {list(named.shape)}")
        return _private_facts(config, PublicFacts(shape or named.shape, len(names), names))
    if name not in _OTHERS and ":" not in name:
        near = difflib.get_close_matches(name, [*NAMED, *_OTHERS], n=1)
        hint = meant(name) or (f"; did you mean {near[0]}?" if near else ";")
        raise UserError(f"data.name: {name!r} is unknown{hint} accepted: {_ACCEPTED}")
    if shape is None or classes is None:
        key, what = ("shape", "[C, H, W]") if shape is None else ("classes", "a number from 2")
        raise UserError(f"data.{key}: missing; with data.name {name} declare {what}")
    if name in NUMBERED and shape[0] not in (1, 3):
        raise UserError(f"data.shape: {list(shape)}; data of {name} have 1 (grey) or 3 channels")
    return _private_facts(config, PublicFacts(shape, classes, _class_names(config, classes)))


def _class_names(config: DataConfig, classes: int) -> tuple[str, ...]:
    """The declared names, or the numbers."""
    names = config.class_names
    if names is None:
        return tuple(str(i) for i in range(classes))
    fit = all(0 < len(name) <= 100 and name.isprintable() for name in names)
    if len(names) != classes or len(set(names)) != classes or not fit:
        raise UserError(f"data.class_names: {len(names)} names; accepted: {classes} different ones "
                        "of 1 to 100 printable characters (data.classes)")  # fmt: skip
    return names


def _private_facts(config: DataConfig, facts: PublicFacts) -> PublicFacts:
    """`facts` with the private classes of `data.split` alone, renumbered from 0."""
    split = config.split
    if split is None:
        return facts
    for key, classes in (("private", split.private), ("public", split.public)):
        if max(classes) >= facts.classes:
            accepted = f"0 to {facts.classes - 1} ({config.name} has {facts.classes} classes)"
            raise UserError(f"data.split.{key}: class {max(classes)}; accepted: {accepted}")
    names = tuple(facts.class_names[c] for c in split.private)
    return PublicFacts(facts.shape, len(names), names, facts.pixel_range)
