"""Transcribe a teacher: a plan, a session, the loop, and what is left behind."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dpsd.config import Config
from dpsd.device import join_processes, leave_processes, pick_device, pick_dtype, rank
from dpsd.errors import UserError
from dpsd.generator.synthesizer import Synthesizer
from dpsd.privacy.inherited import read_dp_ledger
from dpsd.privacy.oracle import Door, Oracle
from dpsd.privacy.plan import Plan, inherit, make_plan
from dpsd.runs.folder import Run
from dpsd.student.bank import Bank
from dpsd.student.student import Student
from dpsd.teachers.folder import TeacherFolder, read_folder
from dpsd.teachers.teacher import load_teacher
from dpsd.transcription.loop import distil
from dpsd.transcription.session import (
    check_memory,
    enter_elsewhere,
    ledger_of,
    open_run_folder,
    prune_releases,
    restore,
    share_start,
)

Progress = Callable[[dict[str, Any]], None]
_CHECKPOINT_SECONDS = 10.0


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
    from dpsd.runs.finish import finish
    from dpsd.runs.pictures import Board, newest_images

    plan = make_plan(config)
    check_memory(config, plan)
    device = pick_device(config.device)
    join_processes(device)
    if config.privacy.insecure_seeded_noise:
        say("WARNING: the noise is seeded and can be predicted; this run is NOT PRIVATE")
    student = Student(
        config, plan.facts, rounds=plan.rounds, queries_per_round=plan.queries_per_round,
        soft_targets=plan.mechanism.soft_targets, device=device,
        dtype=pick_dtype(config.precision, device),
    )  # fmt: skip
    synthesizer = Synthesizer(config, plan.facts, device)
    bank = Bank(min(config.loop.window, plan.answers), plan.facts.shape, plan.facts.classes)
    leads = rank() == 0
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
        finish(
            run, plan, student, synthesizer, bank, oracle.federation(), dict(oracle.seconds), began
        )
    leave_processes()
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
