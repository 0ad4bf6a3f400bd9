"""The state of a run: what learns and what was asked, whole in one `state_dict`."""

import math
from dataclasses import dataclass
from typing import Any

import torch

from dpsd.config import Config
from dpsd.device import broadcast, pick_dtype, world_size
from dpsd.errors import UserError
from dpsd.generator.synthesizer import Synthesizer
from dpsd.privacy.oracle import Door
from dpsd.privacy.plan import Plan
from dpsd.runs.folder import Run
from dpsd.student.bank import Bank, bank_bytes
from dpsd.student.student import Student


@dataclass
class Session:
    """Everything that the loop works on.

    Attributes:
        plan: rounds, queries and guarantee.
        student: learns, and is released.
        synthesizer: makes images from public knowledge and the student.
        bank: of answered images.
        oracle: the one door; None on the ranks of a process group that do not ask.
    """

    plan: Plan
    student: Student
    synthesizer: Synthesizer
    bank: Bank
    oracle: Door | None = None

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint holds. The bank is refilled from the releases that the run keeps."""
        return {"student": self.student.state_dict(), "synthesizer": self.synthesizer.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of `state_dict`."""
        self.student.load_state_dict(state["student"])
        self.synthesizer.load_state_dict(state["synthesizer"])

    def restore(self, run: Run) -> int:
        """Load the newest checkpoint and refill the bank; returns the round to go on with."""
        state, start = run.load_checkpoint(), 0
        if state is not None:
            self.load_state_dict(state)
            start = int(state["round"])
        for round in range(start):
            self._recall(round)
        run.forget_rounds(start)
        return start

    def _recall(self, round: int) -> None:
        assert self.oracle is not None
        recalled = self.oracle.recall(self.plan.position(round))
        if recalled is not None:
            trained = self.plan.trained_on(round)
            scores = self.plan.mechanism.log_likelihood(recalled[1])
            self.bank.add(recalled[0][trained], scores[trained])

    def share(self, start: int) -> int:
        """Give rank 0's restored state to the other ranks; returns the round to go on with."""
        if world_size() == 1:
            return start
        bank = self.bank
        start, state, images, scores, added = broadcast(
            (start, self.state_dict(), bank.images[: len(bank)], bank.scores[: len(bank)],
             bank.added)
        )  # fmt: skip
        self.load_state_dict(state)
        bank.images[: len(images)], bank.scores[: len(scores)], bank.added = images, scores, added
        return start


def new_session(config: Config, plan: Plan, device: torch.device) -> Session:
    """A run's parts before its first round, without an oracle."""
    student = Student(
        config, plan.facts, rounds=plan.rounds, queries_per_round=plan.queries_per_round,
        soft_targets=plan.mechanism.soft_targets, device=device,
        dtype=pick_dtype(config.precision, device),
    )  # fmt: skip
    bank = Bank(min(config.loop.window, plan.answers), plan.facts.shape, plan.facts.classes)
    return Session(plan, student, Synthesizer(config, plan.facts, device), bank)


def prune_releases(run: Run, plan: Plan, rounds: int, window: int) -> None:
    """Drop kept releases that have slid out of the bank's window."""
    oldest = plan.position(rounds - 1) - window
    for path in run.bank.glob("*.safetensors"):
        if int(path.stem) < oldest:
            path.unlink()


def expected_bytes(config: Config, plan: Plan) -> int:
    """Memory that the bank and one round of queries need, in bytes, on top of torch."""
    pixels = math.prod(plan.facts.shape)
    bank = bank_bytes(min(config.loop.window, plan.answers), plan.facts.shape, plan.facts.classes)
    return bank + plan.queries(plan.rounds - 1) * config.generator.select * (pixels + 8)


def check_memory(config: Config, plan: Plan) -> None:
    """Refuse a bank that will not fit in memory.

    Raises:
        UserError: with what is needed and what is free.
    """
    need, have = expected_bytes(config, plan), available_bytes()
    if need > have:
        queries = plan.queries(plan.rounds - 1)
        raise UserError(
            f"loop.window: {config.loop.window} images and {queries} queries a "
            f"round need {need / 2**30:.1f} GiB, and {have / 2**30:.1f} GiB are free; "
            "lower loop.window or raise loop.rounds"
        )


def available_bytes() -> int:
    """Memory that is free now, in bytes."""
    try:
        with open("/proc/meminfo") as f:
            for line in f:
                if line.startswith("MemAvailable:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass
    return 2**62
