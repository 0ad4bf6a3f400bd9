"""The one door: the only object that may call a teacher.

It refuses what the plan does not cover before it answers, charges the ledger, privatises, keeps the
release, and returns it. What it does on the outside depends on public things alone.
"""

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from dpsd.errors import BudgetError, UserError
from dpsd.privacy.budget import Asked, copies_before
from dpsd.privacy.ledger import Hashes, Ledger, image_hashes
from dpsd.privacy.mechanisms.base import Answers
from dpsd.privacy.mechanisms.votes import NoisyVotes
from dpsd.privacy.noise import NoiseSource
from dpsd.privacy.plan import Plan
from dpsd.privacy.releases import keep_release, load_release, release_file

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

    def federation(self) -> dict[str, Any] | None:
        """What the statement says of clients; None where there are none."""


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
        asks = self._asked.counts(hashes) + copies_before(hashes)
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
        if self._keep is None or not release_file(self._keep, position).exists():
            return None
        return load_release(self._keep, position)

    def federation(self) -> dict[str, Any] | None:
        """None: one teacher or ensemble answers, and no clients."""
        return None

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
        asks = self._asked.counts(hashes) + copies_before(hashes) + 1
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
    federation = Oracle.federation

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
