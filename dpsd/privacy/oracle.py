"""The one door: the only object that may call a teacher.

It refuses what the plan does not cover before it answers. Then it charges the ledger, privatises,
keeps the release and returns it. Its outward behaviour depends on public things alone.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from dpsd.device import rows_at_once
from dpsd.errors import UserError
from dpsd.privacy.budget import Budget
from dpsd.privacy.ledger import Ledger, image_hashes
from dpsd.privacy.mechanisms.base import Answers
from dpsd.privacy.noise import NoiseSource
from dpsd.privacy.plan import Plan
from dpsd.privacy.releases import keep_release, load_release, recall_release

Prior = Callable[[Tensor], Tensor]
"""uint8 images [B, C, H, W] -> the student's probabilities, float32 [B, K]."""


class Door(Protocol):
    """What the loop sees of an oracle."""

    seconds: dict[str, float]

    @property
    def position(self) -> int:
        """Answers charged so far."""

    def fresh(self, images: Tensor) -> Tensor:
        """Which images may still be asked, bool [B]."""

    def answer(self, images: Tensor, prior: Prior | None = None) -> Answers:
        """Charge, privatise, return."""

    def recall(self, position: int) -> tuple[Tensor, Answers] | None:
        """Images and answers that were paid before a stop; None if they were lost."""

    def federation(self) -> dict[str, Any] | None:
        """What the statement says about clients; None if there are none."""


class Oracle:
    """Answers images through the plan's mechanism.

    Args:
        teacher: uint8 images [B, C, H, W] -> what the plan's mechanism reads: logits, float32
            [B, K], or counts of votes, int64 [B, K]. Only the oracle holds it.
        plan: mechanism, noise and cap.
        ledger: the teacher's.
        run: the run's id.
        started: when the run started, for the ledger.
        keep: folder under the run's private part where releases are kept, or None.
        seed: of the noise, read only when the plan says `insecure_seeded_noise`.
        batch: images a teacher call; None: as many as `rows_at_once` says.
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
        batch: int | None = None,
    ) -> None:
        self._teacher, self._plan, self._ledger, self._run = teacher, plan, ledger, run
        self._keep, self._seed = keep, seed
        self._batch = batch or rows_at_once(plan.facts.shape)
        self.seconds = {"teacher": 0.0, "prior": 0.0, "oracle": 0.0}
        ledger.open_run(*plan.records(run, started))
        self._budget = Budget(plan, run, ledger)
        self.fresh = self._budget.fresh

    @property
    def position(self) -> int:
        """Answers charged so far."""
        return self._budget.position

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
        start, before = time.perf_counter(), dict(self.seconds)
        hashes = self._budget.admit(images)
        believed = self._believe(images, prior)
        answers = self._give(images, believed, self._budget.charge(hashes))
        inside = sum(self.seconds[k] - before[k] for k in ("teacher", "prior"))
        self.seconds["oracle"] += time.perf_counter() - start - inside
        return answers

    def answer_charged(
        self, images: Tensor, position: int, prior: Prior | None = None
    ) -> Answers | None:
        """Answers that were charged at a position and never given. The caller vouches for that.

        Returns:
            The answers; None if the ledger holds other images there.
        """
        self._budget.check_images(images)
        paid = self._ledger.hashes(self._run)[position : position + len(images)]
        if not np.array_equal(paid, image_hashes(images)):
            return None
        return self._give(images, self._believe(images, prior), position)

    def recall(self, position: int) -> tuple[Tensor, Answers] | None:
        """Images and answers that are paid already; None if lost before they were kept."""
        return recall_release(self._keep, position)

    def federation(self) -> dict[str, Any] | None:
        """None: one teacher or ensemble answers, not clients."""
        return None

    def _give(self, images: Tensor, believed: Tensor | None, position: int) -> Answers:
        noise = NoiseSource(self._noise_seed(position))
        answers = self._plan.mechanism.release(self._ask(images), believed, noise)
        if self._keep is not None:
            keep_release(self._keep, position, images, answers)
        return answers

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
        """What the mechanism privatises: probabilities, float32 [B, K], or votes, int64 [B, K]."""
        start = time.perf_counter()
        with torch.inference_mode():
            said = torch.cat([self._teacher(part).cpu() for part in images.split(self._batch)])
            asked = self._plan.mechanism.read(said)
        self.seconds["teacher"] += time.perf_counter() - start
        return asked

    def _noise_seed(self, position: int) -> bytes | None:
        if not self._plan.seeded_noise:
            return None
        return f"dpsd noise {self._seed} {position}".encode()


class ReplayOracle:
    """Gives the kept releases of an earlier run again, without a teacher.

    Args:
        keep: the run's `private/bank` folder.
        plan: of that run.
    """

    def __init__(self, keep: Path, plan: Plan) -> None:
        self._keep, self._budget = keep, Budget(plan, "", None)
        self.seconds = {"teacher": 0.0, "prior": 0.0, "oracle": 0.0}
        self.fresh = self._budget.fresh

    @property
    def position(self) -> int:
        """Answers given again so far."""
        return self._budget.position

    def answer(self, images: Tensor, prior: Prior | None = None) -> Answers:
        """The release that was kept at this position.

        Raises:
            UserError: the images are not those that the run asked at this position.
        """
        asked, answers = load_release(self._keep, self.position)
        if not torch.equal(asked, images):
            raise UserError(f"replay: other images than were asked at answer {self.position}")
        self._budget.charge(image_hashes(images))
        return answers

    def recall(self, position: int) -> tuple[Tensor, Answers] | None:
        """Images and answers kept at a position; None if none were kept."""
        return recall_release(self._keep, position)

    def federation(self) -> dict[str, Any] | None:
        """None: a replay knows no clients."""
        return None
