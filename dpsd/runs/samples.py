"""Labelled synthetic data from a release alone: the synthesizer's images, the student's labels.

All of it is post-processing of what is released, whatever the unit of the release's epsilon.
"""

import itertools
import math
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from dpsd.config import PublicFacts, load_config
from dpsd.device import available_bytes, pick_device
from dpsd.errors import UserError
from dpsd.files import whole_file
from dpsd.runs.folder import Run
from dpsd.runs.release import Labeller, load_student, release_folder, released_synthesizer

CANDIDATES = 20
"""Of balanced samples: the most candidates for each image, in units of `best`."""
_CHUNK = 10_000
_CHUNK_BYTES = 2**30  # of a chunk's candidates; up to 96 x 96 in colour no chunk is cut by it
_LATER = 2**40  # more than there are candidates


@dataclass(frozen=True)
class Samples:
    """Labelled synthetic images.

    Args:
        images: uint8 [N, C, H, W].
        probabilities: the student's, float32 [N, K].
        class_names: K names.
        candidates: among how many these were chosen.
        balanced: whether equally many images of each class were asked for.
    """

    images: Tensor
    probabilities: Tensor
    class_names: tuple[str, ...]
    candidates: int
    balanced: bool

    @property
    def labels(self) -> Tensor:
        """The student's classes, int64 [N]."""
        return self.probabilities.argmax(1)

    @property
    def counts(self) -> list[int]:
        """Images of each class, K numbers."""
        return torch.bincount(self.labels, minlength=len(self.class_names)).tolist()

    @property
    def short(self) -> dict[str, int]:
        """Class -> images that it lacks to an equal share; empty unless balance was asked for."""
        share = len(self.images) // len(self.class_names) if self.balanced else 0
        named = zip(self.class_names, self.counts, strict=True)
        return {name: share - count for name, count in named if count < share}

    def shortage(self) -> str:
        """One line on the classes that stay short; empty where none does."""
        if not self.short:
            return ""
        classes = ", ".join(f"{name} by {lacking:,}" for name, lacking in self.short.items())
        return (
            f"short of {len(self.images) // len(self.class_names):,} images after "
            f"{self.candidates:,} candidates: {classes}; other classes have more instead"
        )

    def write(self, out: Path) -> None:
        """Write an npz file, whole or not at all.

        It has `images` uint8 [N, C, H, W], `labels` int64 [N] (the student's classes) and
        `probabilities` float32 [N, K] (its soft labels).

        Raises:
            UserError: the file cannot be written.
        """
        import numpy as np

        with whole_file(out) as partial, partial.open("wb") as f:
            np.savez(
                f,
                images=self.images.numpy(),
                labels=self.labels.numpy(),
                probabilities=self.probabilities.numpy(),
            )


def draw_samples(
    run: Path | str | Run,
    n: int,
    *,
    balanced: bool = False,
    best: int = 1,
    select: int | None = None,
) -> Samples:
    """Labelled synthetic data: images of the synthesizer, labels of the student.

    Both come from the release alone. The images are drawn from random streams that no training
    round used. A release gives the same samples each time.

    Args:
        run: a run, its folder, or a release folder by itself.
        n: number of images.
        balanced: equally many images of each class, by the student's label. With `select` above 1
            the share `generator.recombine` of the candidates are variants of earlier ones, evenly
            over the classes. A class of which `CANDIDATES * n * best` candidates hold too few stays
            short; images of the other classes, as evenly as possible, are there instead.
        best: of so many candidates of a class, one is kept: that of which the student is surest.
            The classes keep their shares, unless `balanced` changes them.
        select: so many images are drawn for each candidate; those of which the student is unsure
            and those of rare classes are preferred. Default: `generator.select` of the run.

    Raises:
        UserError: a number is too small, no release is there, or the images do not fit in memory.
    """
    for name, value in (("n", n), ("best", best), ("select", select)):
        if value is not None and value < 1:
            raise UserError(f"{name}: {value}; accepted: from 1")
    release = release_folder(run)
    config, device = load_config(release / "config.yaml"), pick_device("auto")
    facts = config.facts
    if balanced and n < facts.classes:
        raise UserError(f"n: {n}; accepted with balanced: from {facts.classes}, one of each class")
    each = select or config.generator.select
    chunk = _chunk(facts, each)
    _check_memory(n, facts, min(chunk, n * best) * each)
    labeller = Labeller(load_student(release), device)
    synthesizer = released_synthesizer(run, device, select)

    kept, waiting = _Rows.empty(n, facts), _Rows.empty(0, facts)
    counts, drawn = torch.zeros(facts.classes, dtype=torch.int64), 0
    for i in itertools.count():
        enough = int(counts.sum()) >= n
        if balanced:
            enough &= int(counts.min()) >= n // facts.classes or drawn >= CANDIDATES * n * best
        if enough:
            break
        size = n * best if balanced or best > 1 else n - drawn
        # Training rounds count from 0 up; samples have the streams below.
        images = synthesizer.sample(min(chunk, size), labeller, round=-1 - i)
        order = drawn + torch.arange(len(images))
        drawn += len(images)
        probabilities = labeller.predict(images)
        if balanced:
            synthesizer.remember(images, partial(_known, probabilities))
        found, waiting = _surest(waiting.join(images, probabilities, order), best)
        if balanced:
            found.order += _LATER * _ranks(found.labels, counts)
        counts += torch.bincount(found.labels, minlength=facts.classes)
        kept.take(found)
    return Samples(*kept.shown(), facts.class_names, drawn, balanced)


def _chunk(facts: PublicFacts, select: int) -> int:
    """Images that are drawn at a time: fewer where their candidates are large."""
    return max(1, min(_CHUNK, _CHUNK_BYTES // (math.prod(facts.shape) * select)))


def _check_memory(n: int, facts: PublicFacts, candidates: int) -> None:
    """Refuse more samples than memory holds: twice each, as they are put in order at the end.

    Raises:
        UserError: with what is needed and what is free.
    """
    pixels, have = math.prod(facts.shape), available_bytes()
    each, beside = 2 * (pixels + 4 * facts.classes + 8), 2 * candidates * pixels
    if n * each + beside > have:
        most = max(0, (have - beside) // each)
        raise UserError(
            f"n: {n} images need {(n * each + beside) / 2**30:.1f} GiB, and {have / 2**30:.1f} GiB "
            f"are free; accepted: up to {most}"
        )


def _known(probabilities: Tensor, _: Tensor) -> Tensor:
    return probabilities


@dataclass
class _Rows:
    """Candidates: images uint8 [N, C, H, W], probabilities float32 [N, K], order int64 [N].

    Rows of a lower order are taken first. In a row that is still free the order is the largest.
    """

    images: Tensor
    probabilities: Tensor
    order: Tensor

    @staticmethod
    def empty(n: int, facts: PublicFacts) -> "_Rows":
        return _Rows(
            torch.empty((n, *facts.shape), dtype=torch.uint8),
            torch.empty((n, facts.classes)),
            torch.full((n,), torch.iinfo(torch.int64).max),
        )

    @property
    def labels(self) -> Tensor:
        return self.probabilities.argmax(1)

    def join(self, images: Tensor, probabilities: Tensor, order: Tensor) -> "_Rows":
        if not len(self.order):
            return _Rows(images, probabilities, order)
        return _Rows(
            torch.cat([self.images, images]),
            torch.cat([self.probabilities, probabilities]),
            torch.cat([self.order, order]),
        )

    def at(self, rows: Tensor) -> "_Rows":
        return _Rows(self.images[rows], self.probabilities[rows], self.order[rows])

    def take(self, found: "_Rows") -> None:
        """Keep those of the lowest order of these rows and the new ones; the number stays."""
        n = len(self.order)
        lowest = torch.cat([self.order, found.order]).argsort()[:n]
        stays = torch.zeros(n, dtype=torch.bool)
        stays[lowest[lowest < n]] = True
        free, new = (~stays).nonzero()[:, 0], lowest[lowest >= n] - n
        self.images[free] = found.images[new]
        self.probabilities[free] = found.probabilities[new]
        self.order[free] = found.order[new]

    def shown(self) -> tuple[Tensor, Tensor]:
        """Images and probabilities in the order in which they were drawn."""
        rows = (self.order % _LATER).argsort()
        return self.images[rows], self.probabilities[rows]


def _surest(rows: _Rows, best: int) -> tuple[_Rows, _Rows]:
    """Of each `best` rows of a class in a row the surest one, and the rows that are left over."""
    if best == 1:
        return rows, rows.at(torch.empty(0, dtype=torch.int64))
    confidence, labels = rows.probabilities.max(1)
    won, order, left = [], [], []
    for c in labels.unique().tolist():
        mine = (labels == c).nonzero()[:, 0]
        whole = len(mine) // best * best
        groups = mine[:whole].view(-1, best)
        surest = confidence[groups].argmax(1, keepdim=True)
        won.append(groups.gather(1, surest)[:, 0])
        order.append(rows.order[groups[:, -1]])
        left.append(mine[whole:])
    found = rows.at(torch.cat(won))
    found.order = torch.cat(order)
    return found, rows.at(torch.cat(left).sort().values)


def _ranks(labels: Tensor, before: Tensor) -> Tensor:
    """How many rows of its class stand before each row, those counted in `before` [K] included."""
    ranks = torch.empty_like(labels)
    for c in labels.unique().tolist():
        mine = (labels == c).nonzero()[:, 0]
        ranks[mine] = before[c] + torch.arange(len(mine))
    return ranks
