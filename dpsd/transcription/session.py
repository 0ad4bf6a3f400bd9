"""The state of a run: what learns and what was asked, whole in one `state_dict`."""

import math
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from dpsd.config import Config
from dpsd.device import (
    agreed,
    align_random,
    available_bytes,
    broadcast,
    local_processes,
    pick_dtype,
    world_size,
)
from dpsd.errors import UserError
from dpsd.generator.recombine import parents_of_a_class
from dpsd.generator.synthesizer import Synthesizer
from dpsd.privacy.oracle import Door
from dpsd.privacy.plan import Plan
from dpsd.runs.folder import Run, default_run_folder
from dpsd.student.bank import MAPPED_ABOVE, Bank, bank_bytes
from dpsd.student.student import Student


@dataclass
class Session:
    """Everything that the loop works on.

    Attributes:
        plan: rounds, queries and guarantee.
        student: learns, and is released.
        synthesizer: makes images from public knowledge and the student.
        bank: of answered images.
        oracle: the one door; of several processes rank 0's, and its helpers on the others.
    """

    plan: Plan
    student: Student
    synthesizer: Synthesizer
    bank: Bank
    oracle: Door

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint holds. The bank is refilled from the releases that the run keeps."""
        return {"student": self.student.state_dict(), "synthesizer": self.synthesizer.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of `state_dict`."""
        self.student.load_state_dict(state["student"])
        self.synthesizer.load_state_dict(state["synthesizer"])

    def restore(self, run: Run | None) -> int:
        """Load the newest checkpoint and refill the bank; returns the round to go on with.

        Args:
            run: rank 0's; None on the other ranks, which make the call too.
        """
        state, start = broadcast(agreed(lambda: run.load_checkpoint() if run else None)), 0
        if state is not None:
            self.load_state_dict(state)
            start = int(state["round"])
        for round in range(start):
            self._recall(round, start)
        if run is not None:
            run.forget_rounds(start)
        align_random(self.student.device)
        return start

    def _recall(self, round: int, start: int) -> None:
        plan, position = self.plan, self.plan.position(round)
        recalled, trained = self.oracle.recall(position), plan.trained_on(round)
        if recalled is not None:
            scores = plan.mechanism.log_likelihood(recalled[1])
            self.bank.add(recalled[0][trained], scores[trained], position)
        elif position < oldest_kept(plan, start, self.bank.window):
            self.bank.skip(len(range(plan.queries(round))[trained]))


def new_learners(config: Config, plan: Plan, device: torch.device) -> tuple[Student, Synthesizer]:
    """A run's student and synthesizer before the first round.

    Raises:
        UserError: a model or a source of images cannot be used.
    """
    student = Student(
        config, plan.facts, rounds=plan.rounds, queries_per_round=plan.queries_per_round,
        soft_targets=plan.mechanism.soft_targets, device=device,
        dtype=pick_dtype(config.precision, device),
    )  # fmt: skip
    return student, Synthesizer(config, plan.facts, device, together=True)


def window_of(config: Config, plan: Plan) -> int:
    """Images that the bank can hold."""
    return min(config.loop.window, plan.answers)


def oldest_kept(plan: Plan, rounds: int, window: int) -> int:
    """Releases before this position are not in the bank's window after so many rounds."""
    held_out = plan.held_out if rounds == plan.rounds else 0
    return plan.position(rounds - 1) - window - held_out


def prune_releases(run: Run, plan: Plan, rounds: int, window: int) -> None:
    """Drop kept releases that have slid out of the bank's window."""
    oldest = oldest_kept(plan, rounds, window)
    for path in run.bank.glob("*.safetensors"):
        if int(path.stem) < oldest:
            path.unlink()


def check_ranks(plan: Plan) -> None:
    """Refuse more processes than a round has images.

    Raises:
        UserError: on every rank, before anything is charged.
    """
    if world_size() > plan.queries_per_round:
        raise UserError(
            f"torchrun: {world_size()} processes for {plan.queries_per_round} images a round "
            f"(privacy.answers / loop.rounds); accepted: up to {plan.queries_per_round} processes"
        )


def on_disk(config: Config, plan: Plan) -> bool:
    """Whether the bank lies on disk (`MAPPED_ABOVE`)."""
    return bank_bytes(window_of(config, plan), plan.facts.shape, plan.facts.classes) > MAPPED_ABOVE


def expected_bytes(config: Config, plan: Plan) -> int:
    """Memory of one process in bytes, on top of torch, networks and activations.

    `dpsd plan` adds these (`dpsd.planning.timing.activation_bytes`).

    It holds a bank in memory, a round's candidates with the images chosen, and the parents of
    later ones. What a bank on disk is read from is the system's cache, which gives way.
    """
    pixels, g = math.prod(plan.facts.shape), config.generator
    window, classes = window_of(config, plan), plan.facts.classes
    bank = 0 if on_disk(config, plan) else bank_bytes(window, plan.facts.shape, classes)
    parents = min(plan.answers, classes * parents_of_a_class(plan.facts.shape, classes))
    pool = parents * pixels if g.select > 1 and g.recombine > 0 else 0
    copies = 2 if pool else 1  # new candidates and variants are put together
    candidates = g.select * (copies * pixels + 8)
    return bank + pool + plan.queries(plan.rounds - 1) * (candidates + pixels)


def disk_bytes(config: Config, plan: Plan) -> int:
    """What a run keeps in its private folder at the most, in bytes, beside weights.

    These are the images of the window and of two more rounds, once, with their answers (at most
    20 bytes a class), and the scores of a bank on disk.
    """
    window, k = window_of(config, plan), plan.facts.classes
    kept = min(plan.answers, window + plan.queries_per_round + plan.queries(plan.rounds - 1))
    scores = 4 * window * k if on_disk(config, plan) else 0
    return kept * (math.prod(plan.facts.shape) + 20 * k + 16) + scores


def check_room(config: Config, plan: Plan, folder: Path | None = None) -> None:
    """Refuse a run that will not fit in memory or on disk.

    Args:
        config: of the run.
        plan: of the run.
        folder: of the run; None: the default one.

    Raises:
        UserError: with what is needed and what is free.
    """
    check_memory(config, plan)
    check_disk(config, plan, folder or default_run_folder(config))


def check_memory(config: Config, plan: Plan) -> None:
    """Refuse a bank, or rounds, that will not fit in memory.

    Raises:
        UserError: with what is needed, by all processes of this machine, and what is free.
    """
    processes = local_processes()
    need, have = processes * expected_bytes(config, plan), available_bytes()
    if need > have:
        queries = plan.queries(plan.rounds - 1)
        by = f" by {processes} processes" if processes > 1 else ""
        sizes = f"need {need / 2**30:.1f} GiB{by}, and {have / 2**30:.1f} GiB are free"
        if on_disk(config, plan):
            raise UserError(
                f"loop.rounds: {plan.rounds}, so that {queries} queries a round {sizes}; accepted: "
                "more rounds, a smaller generator.select or fewer processes"
            )
        raise UserError(
            f"loop.window: {config.loop.window} images and {queries} queries a round {sizes}; "
            "lower loop.window or raise loop.rounds"
        )


def check_disk(config: Config, plan: Plan, folder: Path) -> None:
    """Refuse images and answers that will not fit on the disk of the run's folder.

    Raises:
        UserError: with what is needed and what is free.
    """
    kept = sum(path.stat().st_size for path in folder.glob("private/bank/*.safetensors"))
    need, have = disk_bytes(config, plan) - kept, free_bytes(folder)
    if need > have:
        raise UserError(
            f"loop.window: {window_of(config, plan)} images and their answers need "
            f"{need / 2**30:.1f} GiB on the disk of {folder}, and {have / 2**30:.1f} GiB are free; "
            "lower loop.window or choose another --out"
        )


def free_bytes(folder: Path) -> int:
    """Free space on the disk of a folder, which need not exist yet, in bytes."""
    folder = folder.absolute()
    return shutil.disk_usage(next(p for p in (folder, *folder.parents) if p.exists())).free
