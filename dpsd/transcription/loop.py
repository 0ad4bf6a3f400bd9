"""The loop: synthesise, ask, learn, and let the generator learn from the student."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from dpsd.device import agreed, gather_rows, own_chunks, rank, rows_at_once, shared
from dpsd.privacy.oracle import Prior
from dpsd.privacy.plan import Plan
from dpsd.student.student import Student
from dpsd.transcription.session import Session


def distil(
    session: Session, *, start: int = 0, after_round: Callable[[int, dict[str, Any]], None]
) -> None:
    """The loop of private distillation. Only the session's oracle has seen a teacher.

    Several processes run it together: each draws the round's images, asks about its share of them
    and learns from its rows of every batch.

    Args:
        session: synthesizer, oracle, bank and student.
        start: first round, above 0 when resumed.
        after_round: receives the round and its public figures.
    """
    plan, student, synthesizer, bank = (
        session.plan, session.student, session.synthesizer, session.bank
    )  # fmt: skip
    for round in range(start, plan.rounds):
        images, scores = query(session, round)
        images, scores = images[plan.trained_on(round)], scores[plan.trained_on(round)]
        bank.add(images, scores, plan.position(round))
        figures = student.fit(bank, new=len(images)) if len(bank) else {}
        figures |= synthesizer.update(student, round=round)
        agreed(partial(after_round, round, figures))
    student.refit(bank)


def query(session: Session, round: int) -> tuple[Tensor, Tensor]:
    """One round of paid images and what their answers say, [B, C, H, W] and [B, K].

    Answers that were paid before a stop are recalled. Answers charged but never stored are not
    asked again; their round stays empty.
    """
    plan, student, oracle = session.plan, session.student, session.oracle
    position = plan.position(round)
    if position < oracle.position:
        recalled = oracle.recall(position)
        if recalled is None:
            nothing = torch.empty((0, *plan.facts.shape), dtype=torch.uint8)
            return nothing, torch.empty((0, plan.facts.classes))
        images, answers = recalled
    else:
        # Ranks share the drawing, and the oracle checks that all have the same images.
        images = agreed(
            lambda: session.synthesizer.sample(plan.queries(round), student, oracle, round=round)
        )
        answers = oracle.answer(images, prior=asking_prior(plan, student, round))
    session.synthesizer.remember(images, partial(predicted_together, student))
    return images, plan.mechanism.log_likelihood(answers)


def predicted_together(student: Student, images: Tensor) -> Tensor:
    """The student's probabilities, float32 [B, K], the same on every rank. All ranks call it.

    Each rank predicts its share. Two GPUs may differ in the last bit, and with it in the class of
    a near tie.

    Args:
        student: of the run.
        images: uint8 [B, C, H, W], B from 1, the same on every rank.
    """
    parts = images.split(rows_at_once(tuple(images.shape[1:])))
    return shared(len(images), len(parts), lambda i: student.predict(parts[i]))


def asking_prior(plan: Plan, student: Student, round: int) -> Prior:
    """The student's prediction; for randomised response, uniform on a share of the images.

    The share falls linearly from 1 to `plan.explore` over the first half of the rounds. Of several
    processes each predicts its share of the images, and rank 0 gets all rows.
    """
    share = max(plan.explore, 1 - 2 * round / plan.rounds * (1 - plan.explore))
    explores = plan.mechanism.name == "randomized_response"

    def prior(images: Tensor) -> Tensor:
        mine = own_chunks(images, rows_at_once(plan.facts.shape))
        believed = gather_rows(
            agreed(lambda: student.predict(mine) if len(mine) else torch.empty(0))
        )
        if not explores or rank() > 0:
            return believed
        n, classes = int(share * len(images)), believed.shape[1]
        # Not quite uniform: ties would rank the same few classes first where top_k is set. To
        # clients the prior travels in float16, which keeps larger steps alone.
        step = 0.02 if plan.route == "federated" else 1e-4
        ties = torch.rand(n, classes, generator=torch.Generator().manual_seed(round))
        believed[:n] = (1 + step * ties) / classes
        return believed

    return prior
