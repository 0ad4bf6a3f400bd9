"""The synthesizer: a seeded, position-addressed stream of query images from public knowledge."""

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from dpsd.config import Config, PublicFacts
from dpsd.config.public import drawn_shares
from dpsd.config.sections import GeneratorConfig
from dpsd.data.folders import image_names
from dpsd.data.load import load_public_images
from dpsd.data.photographs import read_large, read_photographs
from dpsd.device import joined, rows_at_once, shared
from dpsd.errors import UserError
from dpsd.generator.adversarial import Adversarial
from dpsd.generator.folder import Draw, PublicFolder
from dpsd.generator.photographs import AUGMENTATIONS, Photographs
from dpsd.generator.procedural import FAMILIES, procedural
from dpsd.generator.recombine import Pool
from dpsd.imports import import_object
from dpsd.student.student import Student

_TRIES = 20
_LEAST_DRAW = 64
_CHUNK = 512
_SURE = (
    0.2  # the weight of an image of which the student is sure, where an unsure one has up to 1.1
)


class Predicts(Protocol):
    """What ranking candidates needs of a student."""

    def predict(self, images: Tensor) -> Tensor:
        """uint8 [B, C, H, W] -> probabilities float32 [B, K]."""


@dataclass(frozen=True)
class Undecided:
    """Whoever has no student yet: each of the `classes` is as likely."""

    classes: int

    def predict(self, images: Tensor) -> Tensor:
        """As `Predicts`."""
        return torch.full((len(images), self.classes), 1 / self.classes)


class CanAsk(Protocol):
    """What the synthesizer may know of the oracle: which public images are still unasked."""

    def fresh(self, images: Tensor) -> Tensor:
        """Bool [B]."""


class Synthesizer:
    """Makes query images by the configured mix; holds nothing private.

    Round r always draws from its own random stream, so a resumed run goes on where it stood. The
    same seed gives the same images on devices of the same kind, and other images on a GPU than on
    the processor.

    Args:
        config: `generator`, `seed` and `privacy.route` are read.
        facts: public shape and number of classes.
        device: where images are drawn and the trainable generator learns. Images of a federation
            are drawn on the processor.
        together: all ranks call `sample`, and share its work. The loop's synthesizer does so; one
            that a single rank has, as a federation's clients in its process do, must not.
    """

    def __init__(
        self, config: Config, facts: PublicFacts, device: torch.device, *, together: bool = False
    ) -> None:
        self.config, self.facts, self.seed = config.generator, facts, config.seed
        self._together = together
        self.shares = self._normalised()
        self.adversarial = (
            Adversarial(self.config, facts.shape, self._key("weights"), device)
            if "adversarial" in self.shares
            else None
        )
        self.photographs = (
            Photographs(read_photographs(self.config), facts.shape, _augmentations(self.config))
            if "photographs" in self.shares
            else None
        )
        self.pool = Pool(facts.shape, facts.classes)
        # A federation's clients make its images again from the seed, on their processors.
        self._device = torch.device("cpu") if config.privacy.route == "federated" else device
        self._folder: PublicFolder | None = None
        self._own: Draw | None = None
        if self.config.kind == "images":
            source = self.config.source or ""
            if self.config.augment is None and ":" not in source:
                pool = load_public_images(Path(source), facts)
                self._folder = PublicFolder(pool, self._key("folder"))
            else:
                self._own = _own_source(self.config, facts, self._device)

    def sample(
        self, n: int, student: Predicts, oracle: CanAsk | None = None, *, round: int = 0
    ) -> Tensor:
        """Images for one round.

        A folder's images are dealt in an order of its own, so that all of them can be asked. Each
        round goes on about where the one before ended.

        Args:
            n: how many.
            student: ranks candidates where `generator.select` is above 1.
            oracle: drops images that were asked before; None keeps all.
            round: selects the random stream.

        Returns:
            uint8 [n, C, H, W] in random order.

        Raises:
            UserError: the source does not yield enough images that were never asked.
        """
        rng = torch.Generator().manual_seed(self._key("images", round))
        pool = torch.empty((0, *self.facts.shape), dtype=torch.uint8)
        new, tries, folder = self._own or self._anew, _TRIES, self._folder
        if folder is not None:
            new = self._dealt(folder, round * n * self.config.select)
            tries += len(folder) // max(n, _LEAST_DRAW)
        for _ in range(tries):
            missing = n - len(pool)
            count = max(missing if folder is None else n, _LEAST_DRAW)
            drawn = self._draw(count * self.config.select, rng, new)
            rows = torch.arange(len(drawn)) if oracle is None else _unasked(oracle, pool, drawn)
            chosen = self._select(drawn, rows, missing, student, rng)
            del drawn, rows  # candidates are large
            pool = torch.cat([pool, chosen]) if len(pool) else chosen
            if len(pool) == n:
                return pool[torch.randperm(n, generator=rng)]
        augmented = "" if folder is None else ", or set generator.augment"
        raise UserError(
            f"generator.kind: {self.config.kind} gave only {len(pool)} of {n} images that were not "
            f"asked before; use more public images or fewer privacy.answers{augmented}"
        )

    def remember(self, images: Tensor, predict: Callable[[Tensor], Tensor]) -> None:
        """Keep images, uint8 [B, C, H, W], for the variants of later rounds.

        `predict` is asked for the student's probabilities [B, K] only where variants are drawn.
        """
        if self.config.select > 1 and self.config.recombine > 0 and len(images):
            self.pool.add(images, predict(images).argmax(1))

    def update(self, student: Student, *, round: int) -> dict[str, float]:
        """Train the trainable generator, if the mix has one, against the student."""
        if self.adversarial is None:
            return {}
        rng = torch.Generator().manual_seed(self._key("update", round))
        return self.adversarial.update(student, rng, round=round)

    def state_dict(self) -> dict[str, Any]:
        """The pool, and weights and optimiser of the trainable generator, if any."""
        state: dict[str, Any] = {"pool": self.pool.state_dict()}
        if self.adversarial is not None:
            state["model"] = self.adversarial.model.state_dict()
            state["optimizer"] = self.adversarial.optimizer.state_dict()
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of `state_dict`."""
        self.pool.load_state_dict(state["pool"])
        if self.adversarial is not None:
            self.adversarial.model.load_state_dict(state["model"])
            if "optimizer" in state:
                self.adversarial.optimizer.load_state_dict(state["optimizer"])

    def _draw(self, n: int, rng: torch.Generator, new: Draw) -> Tensor:
        """Candidates: `generator.recombine` of them from the pool, the rest new ones."""
        variants = self.pool.draw(round(n * self.config.recombine), rng, self._pieces)
        if variants is None:
            return new(n, rng)
        return torch.cat([new(n - len(variants), rng), variants])

    def _dealt(self, folder: PublicFolder, start: int) -> Draw:
        """Draws a folder's images from a place of its order on; each draw goes on from the last.

        The random generator that a draw is given stays untouched.
        """

        def draw(n: int, rng: torch.Generator) -> Tensor:
            nonlocal start
            rows, start = folder.deal(start, n), start + n
            if isinstance(folder.images, Tensor):
                return folder.images[rows]
            parts = rows.split(_CHUNK)
            return self._pieces(n, len(parts), lambda i: folder.images[parts[i]])

        return draw

    def _anew(self, n: int, rng: torch.Generator) -> Tensor:
        """Images of the mix, in chunks that have a random stream each."""
        key = int(torch.randint(2**62, (1,), generator=rng))
        sizes = [len(part) for part in torch.arange(n).split(_CHUNK)]
        if not sizes:
            return torch.empty((0, *self.facts.shape), dtype=torch.uint8)
        return self._pieces(n, len(sizes), lambda i: self._mixed(sizes[i], key, i))

    def _pieces(self, n: int, count: int, work: Callable[[int], Tensor]) -> Tensor:
        """The n rows of `work(0)`, `work(1)`, ... in order; ranks that draw together share them."""
        return shared(n, count, work) if self._together else joined(n, map(work, range(count)))

    def _mixed(self, n: int, key: int, chunk: int) -> Tensor:
        rng = torch.Generator().manual_seed(self._key(key, chunk))
        parts = []
        for name, count in _split_count(n, self.shares).items():
            if name == "adversarial":
                assert self.adversarial is not None
                parts.append(self.adversarial.sample(count, rng))
            elif name == "photographs":
                assert self.photographs is not None
                parts.append(self.photographs.draw(count, _stream(rng, self._device)).cpu())
            else:
                drawing = _stream(rng, self._device)
                parts.append(procedural(name, count, self.facts.shape, drawing, "cpu"))
        return torch.cat(parts)

    def _select(
        self, images: Tensor, rows: Tensor, n: int, student: Predicts, rng: torch.Generator
    ) -> Tensor:
        """N of the images in these rows; unsure ones and rare classes are likelier to be drawn.

        An image's weight is (1.2 - max p) sum_c p(c) / mean p(c). The Gumbel trick draws without
        replacement. Candidates take most of a round's memory, so they are not copied as a whole.
        """
        if len(rows) <= n:
            return images if len(rows) == len(images) else images[rows]
        if self.config.select == 1:
            return images[rows[torch.randperm(len(rows), generator=rng)[:n]]]
        parts = rows.split(rows_at_once(self.facts.shape))
        p = self._pieces(len(rows), len(parts), lambda i: student.predict(images[parts[i]]))
        rarity = (p / p.mean(0).clamp_min(1e-3)).sum(1)
        weight = rarity * (1 + _SURE - p.max(1).values)
        uniform = torch.rand(len(rows), generator=rng).clamp_min(1e-12)
        return images[rows[(weight.log() - (-uniform.log()).log()).topk(n).indices]]

    def _normalised(self) -> dict[str, float]:
        kind, shares = self.config.kind, drawn_shares(self.config)
        if kind == "images":
            return {}
        if not shares:
            raise UserError(
                f"generator.shares: {self.config.shares} leaves nothing for kind {kind}; "
                f"accepted: a share above 0 for one of {', '.join(FAMILIES)}, photographs"
            )
        total = math.fsum(shares.values())
        return {name: share / total for name, share in sorted(shares.items())}

    def _key(self, *what: Any) -> int:
        text = f"dpsd synthesizer {self.seed} {what}".encode()
        return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little") >> 1


def _unasked(oracle: CanAsk, pool: Tensor, drawn: Tensor) -> Tensor:
    """The drawn rows that were asked neither before nor among the pool, int64 [rows]."""
    seen = torch.cat([pool, drawn]) if len(pool) else drawn
    return oracle.fresh(seen)[len(pool) :].nonzero()[:, 0]


def _split_count(n: int, shares: dict[str, float]) -> dict[str, int]:
    """N cut by shares, the rounding left to the last."""
    counts, left = {}, n
    *first, last = shares
    for name in first:
        counts[name] = min(left, round(n * shares[name]))
        left -= counts[name]
    counts[last] = left
    return {name: count for name, count in counts.items() if count}


def _stream(rng: torch.Generator, device: torch.device) -> torch.Generator:
    """The generator itself on the processor; elsewhere one of that device that follows from it."""
    if device.type == "cpu":
        return rng
    seed = int(torch.randint(2**62, (1,), generator=rng))
    return torch.Generator(device).manual_seed(seed)


def _augmentations(config: GeneratorConfig) -> tuple[str, ...]:
    return AUGMENTATIONS if config.augment is None else config.augment


def _own_source(config: GeneratorConfig, facts: PublicFacts, device: torch.device) -> Draw:
    """The user's endless declared-public images: a callable, or augmented images of a folder.

    Only augmented images of a folder are drawn on the device.
    """
    source = config.source
    assert source is not None
    if ":" in source:
        draw: Draw = import_object(source)
        return draw
    folder = Path(source)
    files = [folder / name for name in image_names(folder, "generator.source")]
    photographs = read_large(files, "generator.source")
    crops = Photographs(photographs, facts.shape, config.augment or ())
    return lambda n, rng: crops.draw(n, _stream(rng, device)).cpu()
