"""The one door where several processes share its work.

Rank 0's oracle admits and charges a round before any rank asks. Then every rank asks the teacher
about its own images, and rank 0 alone privatises: the mechanism is called once a round, with the
noise of one process. So the ledger, the releases and their noise are those of one process. What a
teacher says travels between the processes of its one owner, from a `Helper` to a `SharedOracle`,
and is seen by nothing else.

All ranks make the same calls in the same order.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dpsd.device import agreed, broadcast, gather_rows, own_chunks, rank, rows_at_once
from dpsd.errors import UserError
from dpsd.privacy.budget import Budget
from dpsd.privacy.ledger import Hashes, image_hashes
from dpsd.privacy.mechanisms.base import Answers
from dpsd.privacy.oracle import Door, Oracle, Prior
from dpsd.privacy.plan import Plan
from dpsd.privacy.releases import recall_release


class SharedOracle(Oracle):
    """The oracle of rank 0, whose teacher's work other ranks share. Arguments as of `Oracle`."""

    def meet(self) -> None:
        """Tell the helpers which images the run has asked before."""
        broadcast(self._ledger.hashes(self._run))

    def answer(self, images: Tensor, prior: Prior | None = None) -> Answers:
        """As `Oracle.answer`; `prior` is called on all ranks and gives rank 0 all rows."""
        start, before = time.perf_counter(), dict(self.seconds)
        hashes = broadcast(agreed(lambda: self._budget.admit(images)))
        agreed(_nothing)  # the helpers have the same images
        believed = agreed(lambda: self._believe(images, prior))
        position = agreed(lambda: self._budget.charge(hashes))
        answers: Answers = broadcast(agreed(lambda: self._give(images, believed, position)))
        inside = sum(self.seconds[k] - before[k] for k in ("teacher", "prior"))
        self.seconds["oracle"] += time.perf_counter() - start - inside
        return answers

    def recall(self, position: int) -> tuple[Tensor, Answers] | None:
        """As `Oracle.recall`."""
        return agreed(lambda: super(SharedOracle, self).recall(position))

    def _ask(self, images: Tensor) -> Tensor:
        start = time.perf_counter()
        said = ask_share(self._teacher, images, self._batch)
        asked = self._plan.mechanism.read(said)
        self.seconds["teacher"] += time.perf_counter() - start
        return asked


class Helper:
    """What another rank has in the place of the oracle: it asks its share for rank 0.

    It holds the teacher, charges nothing, privatises nothing and keeps nothing.

    Args:
        teacher: as of `Oracle`.
        plan: of the run.
        keep: where rank 0 keeps the releases.
        batch: images a teacher call, as rank 0 has it; None: as many as `rows_at_once` says.
    """

    def __init__(
        self,
        teacher: Callable[[Tensor], Tensor],
        plan: Plan,
        keep: Path | None = None,
        batch: int | None = None,
    ) -> None:
        self._teacher, self._plan, self._keep = teacher, plan, keep
        self._batch = batch or rows_at_once(plan.facts.shape)
        self._budget = Budget(plan, "", None)
        self.seconds: dict[str, float] = {}
        self.fresh = self._budget.fresh

    @property
    def position(self) -> int:
        """Answers charged so far."""
        return self._budget.position

    def meet(self) -> None:
        """Learn which images the run has asked before."""
        self._budget.charge(broadcast(None))

    def answer(self, images: Tensor, prior: Prior | None = None) -> Answers:
        """Ask this rank's share, once rank 0 has charged the round; returns all answers.

        Raises:
            UserError: rank 0 asks other images, or was refused. Nothing was asked or charged.
        """
        hashes = broadcast(agreed(_nothing))
        agreed(lambda: check_alike(hashes, images))
        agreed(lambda: self._believe(images, prior))
        agreed(_nothing)  # rank 0 has charged them
        agreed(lambda: ask_share(self._teacher, images, self._batch))
        self._budget.charge(hashes)
        answers: Answers = broadcast(None)
        return answers

    def recall(self, position: int) -> tuple[Tensor, Answers] | None:
        """As `Oracle.recall`."""
        return agreed(lambda: recall_release(self._keep, position))

    def federation(self) -> dict[str, Any] | None:
        """None: the statement is rank 0's."""
        return None

    def _believe(self, images: Tensor, prior: Prior | None) -> None:
        if self._plan.mechanism.uses_prior and prior is not None:
            prior(images)


class LoneDoor:
    """On all ranks, a door at which rank 0 asks alone: a federation's clients, or a replay.

    Args:
        door: rank 0's; None on the other ranks.
        plan: of the run.
    """

    def __init__(self, door: Door | None, plan: Plan) -> None:
        self._door, self._plan = door, plan
        self.seconds = {} if door is None else door.seconds
        self._position = 0

    @property
    def position(self) -> int:
        """Answers charged so far."""
        return self._position

    def meet(self) -> None:
        """Learn where rank 0's door stands."""
        door = self._door
        self._position = broadcast(agreed(lambda: 0 if door is None else door.position))

    def fresh(self, images: Tensor) -> Tensor:
        """Which images may still be asked, bool [B]: rank 0's door says it."""
        door = self._door
        found: Tensor = broadcast(agreed(lambda: None if door is None else door.fresh(images)))
        return found

    def answer(self, images: Tensor, prior: Prior | None = None) -> Answers:
        """Rank 0's answers; `prior` is called on all ranks and gives rank 0 all rows.

        Raises:
            UserError: as rank 0's door.
        """
        door = self._door
        agreed(lambda: check_alike(broadcast(image_hashes(images)), images))
        believed: Tensor | None = None
        if self._plan.mechanism.uses_prior and prior is not None:
            believed = agreed(lambda: prior(images))

        def ask() -> Answers | None:
            if door is None:
                return None
            return door.answer(images, None if believed is None else lambda _: believed)

        answers: Answers = broadcast(agreed(ask))
        self._position += len(images)
        return answers

    def recall(self, position: int) -> tuple[Tensor, Answers] | None:
        """As rank 0's door."""
        door = self._door
        found: tuple[Tensor, Answers] | None = broadcast(
            agreed(lambda: None if door is None else door.recall(position))
        )
        return found

    def federation(self) -> dict[str, Any] | None:
        """What the statement says about clients; None on the other ranks."""
        return None if self._door is None else self._door.federation()


def ask_share(teacher: Callable[[Tensor], Tensor], images: Tensor, batch: int) -> Tensor:
    """What the teacher says of all images, on rank 0; elsewhere of this rank's share.

    Each image is asked by one rank, in the batch in which one process would ask it.

    Args:
        teacher: as of `Oracle`.
        images: uint8 [B, C, H, W], the same on all ranks.
        batch: images a teacher call.
    """

    def own() -> Tensor:
        mine = own_chunks(images, batch)
        with torch.inference_mode():
            parts = [teacher(part).cpu() for part in mine.split(batch) if len(part)]
        return torch.cat(parts) if parts else torch.empty(0)

    return gather_rows(agreed(own))


def check_alike(hashes: Hashes, images: Tensor) -> None:
    """Refuse images that are not those of rank 0, by their hashes.

    Raises:
        UserError: this rank drew others.
    """
    if not np.array_equal(hashes, image_hashes(images)):
        raise UserError(
            f"rank {rank()}: drew other images than rank 0; accepted: ranks with the same "
            "versions, devices and numbers of threads"
        )


def _nothing() -> None:
    return None
