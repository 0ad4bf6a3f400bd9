"""The loop: synthesise, ask, learn, and let the generator learn from the student."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dpsd import parallel
from dpsd.config import Config
from dpsd.device import pick_device, pick_dtype
from dpsd.errors import UserError
from dpsd.generator.bank import Bank
from dpsd.generator.synthesizer import Synthesizer
from dpsd.privacy.inherited import read_dp_ledger
from dpsd.privacy.oracle import Door, Oracle, Prior
from dpsd.privacy.plan import Plan, inherit, make_plan
from dpsd.run import Run
from dpsd.start import (
    enter_elsewhere,
    ledger_of,
    open_run_folder,
    prune_releases,
    restore,
    share_start,
)
from dpsd.student import Student
from dpsd.teacher import TeacherFolder, load_teacher, read_folder

Progress = Callable[[dict[str, Any]], None]
_CHECKPOINT_SECONDS = 10.0


def distil(
    plan: Plan,
    synthesizer: Synthesizer,
    oracle: Door | None,
    bank: Bank,
    student: Student,
    *,
    start: int = 0,
    after_round: Callable[[int, dict[str, Any]], None],
) -> None:
    """The loop of private distillation. Only `oracle` has seen a teacher.

    Args:
        plan: rounds and queries.
        synthesizer: makes images from public knowledge and the student.
        oracle: the one door; None on the ranks of a process group that do not ask.
        bank: of answered images.
        student: learns.
        start: first round, above 0 when resumed.
        after_round: receives the round and its public figures.
    """
    for round in range(start, plan.rounds):
        images, scores = parallel.broadcast(
            query(plan, synthesizer, oracle, student, round) if oracle is not None else None
        )
        images, scores = images[plan.trained_on(round)], scores[plan.trained_on(round)]
        bank.add(images, scores)
        figures = student.fit(bank, new=len(images)) if len(bank) else {}
        figures |= synthesizer.update(student, round=round)
        after_round(round, figures)
    student.refit(bank)


def query(
    plan: Plan, synthesizer: Synthesizer, oracle: Door, student: Student, round: int
) -> tuple[Tensor, Tensor]:
    """One round of paid images and what their answers say, [B, C, H, W] and [B, K].

    Answers that were paid before a stop are recalled; those lost on the way stay paid, are not
    asked again, and leave the round empty.
    """
    position = round * plan.queries_per_round
    if position < oracle.position:
        recalled = oracle.recall(position)
        if recalled is None:
            return torch.empty((0, *plan.facts.shape), dtype=torch.uint8), torch.empty(
                (0, plan.facts.classes)
            )
        images, answers = recalled
    else:
        images = synthesizer.sample(plan.queries_per_round, student, oracle, round=round)
        answers = oracle.answer(images, prior=asking_prior(plan, student, round))
    synthesizer.remember(images, student)
    return images, plan.mechanism.log_likelihood(answers)


def asking_prior(plan: Plan, student: Student, round: int) -> Prior:
    """The student's prediction; for randomised response, uniform on a share of the images.

    The share falls linearly from 1 to `plan.explore` over the first half of the rounds.
    """
    if plan.mechanism.name != "randomized_response":
        return student.predict
    share = max(plan.explore, 1 - 2 * round / plan.rounds * (1 - plan.explore))

    def prior(images: Tensor) -> Tensor:
        believed = student.predict(images)
        n, classes = int(share * len(images)), believed.shape[1]
        # Not quite uniform: ties would rank the same few classes first where top_k is set. To
        # clients the prior travels in float16, which keeps larger steps alone.
        step = 0.02 if plan.route == "federated" else 1e-4
        ties = torch.rand(n, classes, generator=torch.Generator().manual_seed(round))
        believed[:n] = (1 + step * ties) / classes
        return believed

    return prior


def transcribe(
    config: Config,
    *,
    out: Path | str | None = None,
    resume: bool = False,
    data_is_public: bool = False,
    progress: Progress | None = None,
    say: Callable[[str], None] = lambda text: None,
    open_oracle: Callable[[Plan, Run], Door] | None = None,
    home: TeacherFolder | None = None,
    with_synthesizer: Callable[[Synthesizer], None] = lambda made: None,
) -> Run:
    """Transcribe the private teacher into a student that may be released.

    Args:
        config: from `load_config`.
        out: run folder, new; default `runs/<data>-<mechanism>-<time>`.
        resume: go on with a stopped run in `out`.
        data_is_public: put figures measured on the data on the card too.
        progress: receives the public figures of each round.
        say: receives lines for the user.
        open_oracle: another oracle than the configured teacher's, for replays.
        home: the teacher's folder if it is known; found, or trained and filled, by default.
        with_synthesizer: receives the synthesizer behind `open_oracle`, for an oracle that sends
            what images are made from.

    Returns:
        The finished run.

    Raises:
        UserError: bad input, in one line.
    """
    from dpsd.finish import finish
    from dpsd.pictures import Board, newest_images

    plan = make_plan(config)
    device = pick_device(config.device)
    parallel.start(device)
    if config.privacy.insecure_seeded_noise:
        say("WARNING: the noise is seeded and can be predicted; this run is NOT PRIVATE")
    student = Student(
        config, plan.facts, rounds=plan.rounds, queries_per_round=plan.queries_per_round,
        soft_targets=plan.mechanism.soft_targets, device=device,
        dtype=pick_dtype(config, device),
    )  # fmt: skip
    synthesizer = Synthesizer(config, plan.facts, device)
    bank = Bank(min(config.loop.window, plan.answers), plan.facts.shape, plan.facts.classes)
    leads = parallel.rank() == 0
    run, oracle, start = None, None, 0
    if leads:
        run = open_run_folder(config, out, resume, data_is_public, say, home)
        if plan.route == "inherited":
            plan = inherit(plan, read_dp_ledger(run.teacher_folder, run.teacher))
        oracle = (open_oracle or (lambda plan, run: _oracle(config, plan, run)))(plan, run)
        with_synthesizer(synthesizer)
        start = restore(run, plan, student, synthesizer, bank, oracle)
    start = share_start(start, student, synthesizer, bank)
    board = Board(run, start) if run is not None else None
    saved = time.perf_counter()
    began = saved - (run.seconds() if run is not None else 0.0)

    unit = plan.unit if plan.scope == "total" else "answer"

    def after_round(round: int, figures: dict[str, Any]) -> None:
        nonlocal saved
        if run is None or oracle is None or board is None:
            return
        record = {"round": round, "answers": oracle.position,
                  f"epsilon_per_{unit}": plan.epsilon if plan.epsilon < float("inf") else None,
                  "seconds": time.perf_counter() - began} | figures  # fmt: skip
        run.log(record)
        shown = newest_images(bank, min(plan.queries_per_round, 1000))
        board.round(record, shown, student.predict(shown))
        if progress is not None:
            progress(record)
        if time.perf_counter() - saved > _CHECKPOINT_SECONDS or round + 1 == plan.rounds:
            run.save_checkpoint(
                {"student": student.state_dict(), "synthesizer": synthesizer.state_dict()},
                round + 1,
            )
            prune_releases(run, plan, round + 1, config.loop.window)
            saved = time.perf_counter()
        if round + 1 == plan.rounds and (passes := config.student.refit_epochs):
            say(f"now a fresh student makes {passes} passes over all answers")

    distil(plan, synthesizer, oracle, bank, student, start=start, after_round=after_round)
    if run is not None and oracle is not None and board is not None:
        board.close()
        finish(run, plan, student, synthesizer, bank, dict(oracle.seconds), began)
    parallel.stop()
    assert run is not None or not leads
    return run  # type: ignore[return-value]


def _oracle(config: Config, plan: Plan, run: Run) -> Oracle:
    if config.privacy.route == "federated":
        raise UserError("privacy.route: federated; accepted by transcribe: other routes")
    home = read_folder(run.teacher_folder)
    if home.uuid != run.teacher:
        raise UserError(
            f"teacher {home.path}: is {home.uuid}, the run has asked {run.teacher}; restore it"
        )
    teacher, ledger = load_teacher(config, home), ledger_of(run)
    oracle = Oracle(teacher, plan, ledger, run.id, run.started, run.bank, config.seed)
    enter_elsewhere(run, plan, home)
    return oracle
