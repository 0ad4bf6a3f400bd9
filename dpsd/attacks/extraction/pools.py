"""What an attacker may ask about, and the rows on which its clones are measured."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from dpsd.config import Config, parse_config
from dpsd.config.sections import DataConfig
from dpsd.data.folders import image_rows
from dpsd.data.labelled import read_labelled
from dpsd.data.load import Split, join_splits, load_data
from dpsd.errors import UserError
from dpsd.generator.synthesizer import Synthesizer, Undecided
from dpsd.models.frozen import Shape

OTHERS = ("digits", "mnist", "fashion_mnist", "cifar10", "cifar10_jpeg", "att_faces")
SAME, MADE = "same", "synthetic"


@dataclass(frozen=True)
class Pool:
    """Images that an attacker may ask about, uint8 [N, C, H, W], and what they are, in words."""

    images: Tensor
    what: str


@dataclass(frozen=True)
class Ground:
    """The same problem's rows that no model of the run was trained on, in two parts.

    Attributes:
        pool: for an attacker who has data of the same problem.
        measured: for the figures; None where there are no data.
    """

    pool: Split | None
    measured: Split | None


def ground(config: Config, most: int, given: Path | None = None, *, held: int) -> Ground:
    """Holdout rows and every second test row are the pool; the other test rows measure.

    Without test rows every second holdout row measures.

    Args:
        config: of the run, with the data where they lie.
        most: rows to measure on, at most.
        given: labelled pictures of the same problem, in place of the run's data; every second is
            for the pool.
        held: rows of the pool to read, at most; of more, a fixed draw takes so many.

    Raises:
        UserError: pictures that cannot be read.
    """
    if given is not None:
        rows, holdout = read_labelled(given, config.facts), None
    elif config.data.name == "none":
        return Ground(None, None)
    else:
        data = load_data(config.data)
        rows, holdout = (data.holdout, None) if data.test is None else (data.test, data.holdout)
    second = torch.arange(len(rows)) % 2 == 1
    own, others = rows.pick(second), rows.pick(~second)
    pool = own if holdout is None else join_splits(holdout, own)
    measured = others.pick(torch.arange(min(most, len(others))))
    pool = pool.pick(_some(len(pool), held))  # before `[:]` reads rows that lie on disk
    return Ground(Split(pool.images[:], pool.labels), Split(measured.images[:], measured.labels))


def load_pool(
    name: str, config: Config, own: Split | None, count: int, seed: int, *, held: int
) -> Pool:
    """The images of a named pool.

    Args:
        name: `same` (rows of the same problem), `synthetic` (made by dpsd's synthesizer from
            public facts alone), another data set, or a folder of images.
        config: of the run; the shape and number of classes, and where data lie.
        own: rows of the same problem.
        count: images to make, for `synthetic`.
        seed: of what is made.
        held: images of another data set or a folder to read, at most; of more, a fixed draw takes
            so many.

    Raises:
        UserError: no such pool, or a run without data.
    """
    if name == SAME:
        if own is None:
            raise UserError(f"pool: same with data.name none; accepted: {MADE}, or a folder")
        return Pool(own.images[:], "rows of the same problem on which nothing is measured")
    if name == MADE:
        return Pool(made(config, count, seed), f"{count:,} images that dpsd's synthesizer made")
    shape = config.facts.shape
    if name in OTHERS:
        root = config.data.root
        rows = load_data(DataConfig(name=name, root=root)).train.images
        images = rows[_some(len(rows), held)]
        return Pool(reshaped(images, shape), f"training rows of {name}")
    if Path(name).is_dir():
        files = image_rows(Path(name), shape)
        return Pool(files[_some(len(files), held)], f"the images in {name}")
    raise UserError(f"pool: {name!r}; accepted: {SAME}, {MADE}, {', '.join(OTHERS)}, or a folder")


def _some(rows: int, most: int) -> Tensor:
    """Row numbers, int64, rising: all, or `most` of them by a fixed draw."""
    if rows <= most:
        return torch.arange(rows)
    return torch.randperm(rows, generator=torch.Generator().manual_seed(0))[:most].sort().values


def made(config: Config, count: int, seed: int) -> Tensor:
    """Images of dpsd's own synthesizer, uint8 [count, C, H, W], from public facts alone.

    The sources are the run's procedural ones and photographs; a trainable generator is left out,
    as an attacker has none.
    """
    tree = config.model_dump(mode="json")
    shares = {k: v for k, v in tree["generator"]["shares"].items() if k != "adversarial"}
    if not any(shares.values()):
        shares = {"blobs": 1.0, "strokes": 1.0, "spectra": 1.0, "leaves": 1.0}
    tree["generator"] |= {"kind": "procedural", "shares": shares, "select": 1, "recombine": 0}
    tree["seed"] = seed
    public = parse_config(tree)
    source = Synthesizer(public, config.facts, torch.device("cpu"))
    return source.sample(count, Undecided(config.facts.classes), round=0)


def reshaped(images: Tensor, shape: Shape) -> Tensor:
    """Images in another size, and grey ones in colour or the other way round; uint8."""
    channels, height, width = shape
    pixels = images.float()
    if pixels.shape[1] != channels:
        pixels = pixels.mean(1, keepdim=True).expand(-1, channels, -1, -1)
    if pixels.shape[2:] != (height, width):
        pixels = F.interpolate(pixels, (height, width), mode="bilinear", antialias=True)
    return pixels.round().clamp(0, 255).to(torch.uint8).contiguous()
