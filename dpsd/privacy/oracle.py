"""The one door: the only object that may call a teacher.

It refuses what the plan does not cover before it answers, charges the ledger, privatises, keeps the
release, and returns it. What it does on the outside depends on public things alone.
"""

import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor

from dpsd.errors import BudgetError, UserError
from dpsd.imports import brief
from dpsd.privacy.ledger import HASH_BYTES, Hashes, Ledger, image_hashes
from dpsd.privacy.mechanisms import Answers
from dpsd.privacy.noise import NoiseSource
from dpsd.privacy.plan import Plan
from dpsd.privacy.votes import NoisyVotes

Prior = Callable[[Tensor], Tensor]
"""uint8 images [B, C, H, W] -> the student's probabilities, float32 [B, K]."""


class Door(Protocol):
    """What the loop sees of an oracle."""

    position: int
    seconds: dict[str, float]

    def fresh(self, images: Tensor) -> Tensor:
        """Which images may still be asked, bool [B]."""

    def answer(self, images: Tensor, prior: Prior | None = None) -> Answers:
        """Charge, privatise, return."""

    def recall(self, position: int) -> tuple[Tensor, Answers] | None:
        """Images and answers that were paid before a stop, or None if they were lost."""


class Asked:
    """Counts how often images were asked, by the first 8 bytes of their hash.

    A chance collision counts an image once too often, never too rarely. Sorted runs of doubling
    size keep both insertion and look-up cheap at millions of images.
    """

    def __init__(self) -> None:
        self._runs: list[NDArray[np.uint64]] = []

    def counts(self, hashes: Hashes) -> NDArray[np.int64]:
        """How often each image was added before, int64 [B]."""
        keys, out = _keys(hashes), np.zeros(len(hashes), dtype=np.int64)
        for run in self._runs:
            out += np.searchsorted(run, keys, "right") - np.searchsorted(run, keys, "left")
        return out

    def add(self, hashes: Hashes) -> None:
        """Count these images once more."""
        new = np.sort(_keys(hashes))
        while self._runs and len(self._runs[-1]) <= 2 * len(new):
            new = np.sort(np.concatenate([self._runs.pop(), new]), kind="stable")
        self._runs.append(new)


def _keys(hashes: Hashes) -> NDArray[np.uint64]:
    return np.ascontiguousarray(hashes).view(np.uint64).reshape(-1, HASH_BYTES // 8)[:, 0]


def _copies_before(hashes: Hashes) -> NDArray[np.int64]:
    """For each row, how many equal rows stand before it in the batch, int64 [B]."""
    keys = _keys(hashes)
    order = np.argsort(keys, kind="stable")
    ordered = keys[order]
    starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
    rank = np.arange(len(keys)) - np.repeat(starts, np.diff(np.r_[starts, len(keys)]))
    out = np.empty(len(keys), dtype=np.int64)
    out[order] = rank
    return out


class Oracle:
    """Answers images through the plan's mechanism.

    Args:
        teacher: uint8 images [B, C, H, W] -> logits, float32 [B, K], or counts of votes, int64
            [B, K], as the plan's mechanism takes. Nothing else holds it.
        plan: mechanism, noise and cap.
        ledger: the teacher's.
        run: the run's id.
        started: when the run started, for the ledger.
        keep: folder under the run's private part where releases are kept, or None.
        seed: of the noise, read only when the plan says `insecure_seeded_noise`.
        batch: images a teacher call.
    """

    def __init__(
        self,
        teacher: Callable[[Tensor], Tensor],
        plan: Plan,
        ledger: Ledger,
        run: str,
        started: str = "",
        keep: Path | None = None,
        seed: int = 0,
        batch: int = 512,
    ) -> None:
        self._teacher, self._plan, self._ledger, self._run = teacher, plan, ledger, run
        self._keep, self._seed, self._batch = keep, seed, batch
        self.seconds = {"teacher": 0.0, "prior": 0.0, "oracle": 0.0}
        ledger.open_run(
            run, plan.event, plan.answers, plan.asks_per_image, plan.seeded_noise,
            started, plan.unit, plan.test, plan.histograms,
            None if plan.training is None else plan.training.teacher_uuid,
        )  # fmt: skip
        self.position = ledger.charged(run)
        self._asked = Asked()
        if self.position:
            self._asked.add(ledger.hashes(run))

    def fresh(self, images: Tensor) -> Tensor:
        """Which images may still be asked in this run, bool [B]. Depends on public images only."""
        hashes = image_hashes(images)
        asks = self._asked.counts(hashes) + _copies_before(hashes)
        return torch.from_numpy(asks < self._plan.asks_per_image)

    def answer(self, images: Tensor, prior: Prior | None = None) -> Answers:
        """Charge, privatise, keep, return.

        Args:
            images: uint8 [B, C, H, W], on the CPU.
            prior: the student's prediction, where the mechanism uses one.

        Raises:
            BudgetError: the cap on answers or on asks of one image would be exceeded. Nothing was
                asked or charged.
            UserError: wrong shape or type. Nothing was asked or charged.
        """
        start, inner = time.perf_counter(), dict(self.seconds)
        self._check(images)
        hashes = image_hashes(images)
        self._check_budget(hashes)
        believed = self._believe(images, prior)
        position = self.position
        self.position = self._ledger.charge(self._run, position, hashes)
        self._asked.add(hashes)
        answers = self._give(images, believed, position)
        spent = time.perf_counter() - start
        inside = sum(self.seconds[k] - inner[k] for k in ("teacher", "prior"))
        self.seconds["oracle"] += spent - inside
        return answers

    def answer_charged(
        self, images: Tensor, position: int, prior: Prior | None = None
    ) -> Answers | None:
        """Answers that were charged at a position and never given: the caller vouches for that.

        Returns:
            None where the ledger holds other images there, or where histograms are tested first:
            a second test would be a second release.
        """
        self._check(images)
        if self._plan.histograms is not None:
            return None
        paid = self._ledger.hashes(self._run)[position : position + len(images)]
        if not np.array_equal(paid, image_hashes(images)):
            return None
        return self._give(images, self._believe(images, prior), position)

    def _give(self, images: Tensor, believed: Tensor | None, position: int) -> Answers:
        noise = NoiseSource(self._noise_seed(position))
        answers = self._plan.mechanism.release(self._ask(images), believed, noise)
        if self._plan.histograms is not None:
            answers = self._pay_histograms(answers, self._plan.histograms)
        if self._keep is not None:
            keep_release(self._keep, position, images, answers)
        return answers

    def recall(self, position: int) -> tuple[Tensor, Answers] | None:
        """Images and answers that are paid already; None if lost before they were kept."""
        if self._keep is None or not _release_file(self._keep, position).exists():
            return None
        return load_release(self._keep, position)

    def _check(self, images: Tensor) -> None:
        shape = self._plan.facts.shape
        if images.dtype != torch.uint8 or images.ndim != 4 or tuple(images.shape[1:]) != shape:
            raise UserError(
                f"images: {images.dtype} {list(images.shape)}; "
                f"accepted: torch.uint8 [B, {', '.join(map(str, shape))}]"
            )

    def _check_budget(self, hashes: Hashes) -> None:
        if self.position + len(hashes) > self._plan.answers:
            raise BudgetError(
                f"privacy.answers: {len(hashes)} more after {self.position} would exceed the cap "
                f"of {self._plan.answers}"
            )
        asks = self._asked.counts(hashes) + _copies_before(hashes) + 1
        if len(asks) and asks.max() > self._plan.asks_per_image:
            raise BudgetError(
                f"privacy.asks_per_image: an image would be asked {asks.max()} times; "
                f"accepted: up to {self._plan.asks_per_image}"
            )

    def _believe(self, images: Tensor, prior: Prior | None) -> Tensor | None:
        if not self._plan.mechanism.uses_prior:
            return None
        if prior is None:
            raise UserError(f"prior: None, but {self._plan.mechanism.name} needs the student's")
        start = time.perf_counter()
        believed = prior(images).cpu()
        self.seconds["prior"] += time.perf_counter() - start
        return believed

    def _ask(self, images: Tensor) -> Tensor:
        """What the mechanism takes: probabilities, float32 [B, K], or votes, int64 [B, K].

        A row of logits that is not finite becomes uniform; votes are repaired by the mechanism.
        """
        start, mechanism = time.perf_counter(), self._plan.mechanism
        with torch.inference_mode():
            said = torch.cat([self._teacher(part).cpu() for part in images.split(self._batch)])
            if isinstance(mechanism, NoisyVotes):
                asked = mechanism.repaired(said)
            else:
                logits = said.float()
                good = logits.isfinite().all(1, keepdim=True)
                asked = torch.where(good, logits, 0.0).softmax(1)
        self.seconds["teacher"] += time.perf_counter() - start
        return asked

    def _pay_histograms(self, answers: Answers, cap: int) -> Answers:
        """Charge the histograms that passed; those above the cap are dropped, in order."""
        assert answers.size is not None
        left = cap - self._ledger.charged(self._run, "histograms")
        given = answers.size * (answers.size.cumsum(0) <= left)
        self._ledger.charge_histograms(self._run, int(given.sum()))
        return replace(answers, values=answers.values * given[:, None], size=given)

    def _noise_seed(self, position: int) -> bytes | None:
        if not self._plan.seeded_noise:
            return None
        return f"dpsd noise {self._seed} {position}".encode()


class ReplayOracle:
    """Gives the kept releases of an earlier run again, without any teacher.

    Args:
        keep: the run's `private/bank` folder.
        plan: of that run.
    """

    def __init__(self, keep: Path, plan: Plan) -> None:
        self._keep, self._plan = keep, plan
        self.position, self._asked = 0, Asked()
        self.seconds = {"teacher": 0.0, "prior": 0.0, "oracle": 0.0}

    fresh = Oracle.fresh
    recall = Oracle.recall

    def answer(self, images: Tensor, prior: Prior | None = None) -> Answers:
        """The release that was kept at this position.

        Raises:
            UserError: the images are not those that were asked.
        """
        asked, answers = load_release(self._keep, self.position)
        if not torch.equal(asked, images):
            raise UserError(f"replay: other images than were asked at answer {self.position}")
        self._asked.add(image_hashes(images))
        self.position += len(images)
        return answers


def keep_release(folder: Path, position: int, images: Tensor, answers: Answers) -> None:
    """Write a release and its images, whole or not at all, and so that a power cut leaves it."""
    tensors = {"images": images, "values": answers.values, "support": answers.support,
               "size": answers.size, "prior": answers.prior}  # fmt: skip
    path = _release_file(folder, position)
    partial = path.with_suffix(".partial")
    save_file({k: v.contiguous() for k, v in tensors.items() if v is not None}, partial)
    sync(partial)
    os.replace(partial, path)
    sync(folder)


def sync(path: Path) -> None:
    """Have the disk hold a file, or a folder's list of files."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def load_release(folder: Path, position: int) -> tuple[Tensor, Answers]:
    """Images and answers kept at a position of the run.

    Raises:
        UserError: none was kept there, or it is damaged.
    """
    path = _release_file(folder, position)
    if not path.exists():
        raise UserError(f"{path}: no kept release at answer {position}")
    try:
        t = load_file(path)
    except Exception as e:
        raise UserError(
            f"{path}: damaged ({brief(e)}); restore it, or remove it to go on without these "
            "answers, which stay paid"
        ) from e
    return t["images"], Answers(t["values"], t.get("support"), t.get("size"), t.get("prior"))


def _release_file(folder: Path, position: int) -> Path:
    return folder / f"{position:012d}.safetensors"
