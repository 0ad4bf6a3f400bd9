"""Transcribe a teacher: a plan, a session, the loop, and what is left behind."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dpsd.config import Config
from dpsd.device import join_processes, leave_processes, pick_device, rank
from dpsd.errors import UserError
from dpsd.generator.synthesizer import Synthesizer
from dpsd.privacy.oracle import Door, Oracle
from dpsd.privacy.plan import Plan, make_plan
from dpsd.runs.finish import finish
from dpsd.runs.folder import Run
from dpsd.runs.pictures import Board, newest_images
from dpsd.teachers.folder import TeacherFolder, read_folder
from dpsd.teachers.teacher import load_teacher
from dpsd.transcription.begin import discard, open_run_folder, plan_of
from dpsd.transcription.entries import enter, ledger_of
from dpsd.transcription.loop import distil
from dpsd.transcription.session import Session, check_memory, new_session, prune_releases

OnRound = Callable[[dict[str, Any]], None]
"""Receives the public figures of a round."""
OpenOracle = Callable[[Plan, Run, Synthesizer], Door]
_CHECKPOINT_SECONDS = 10.0


def transcribe(
    config: Config,
    *,
    out: Path | str | None = None,
    resume: bool = False,
    data_is_public: bool = False,
    progress: OnRound | None = None,
    say: Callable[[str], None] = lambda text: None,
    open_oracle: OpenOracle | None = None,
    home: TeacherFolder | None = None,
) -> Run:
    """Transcribe the private teacher into a student that may be released.

    Args:
        config: from `load_config`.
        out: run folder, new; default `runs/<data>-<mechanism>-<time>`.
        resume: go on with a stopped run in `out`.
        data_is_public: put figures measured on the data on the card too.
        progress: receives the public figures of each round.
        say: receives lines for the user.
        open_oracle: another oracle than the configured teacher's, for federations and replays; it
            gets the synthesizer, as it may send what images are made from.
        home: the teacher's folder if it is known; found, or trained and filled, by default.

    Returns:
        The finished run.

    Raises:
        UserError: bad input, in one line.
    """
    plan = make_plan(config)
    check_memory(config, plan)
    device = pick_device(config.device)
    join_processes(device)
    if config.privacy.insecure_seeded_noise:
        say("WARNING: the noise is seeded and can be predicted; this run is NOT PRIVATE")
    session = new_session(config, plan, device)
    run = None
    if rank() == 0:
        run = open_run_folder(config, out, resume, data_is_public, say, home)
        session.plan = plan_of(run)
        try:
            session.oracle = (open_oracle or open_teacher_oracle)(
                session.plan, run, session.synthesizer
            )
        except UserError:
            if not resume:  # refused before its first answer: nothing is left behind
                discard(run)
            raise
    start = session.share(session.restore(run) if run is not None else 0)
    if run is None:  # this rank learns and writes nothing
        distil(session, start=start, after_round=lambda round, figures: None)
    else:
        _lead(config, session, run, start, progress, say)
    leave_processes()
    return run  # type: ignore[return-value]  # None on the other ranks


def _lead(
    config: Config,
    session: Session,
    run: Run,
    start: int,
    progress: OnRound | None,
    say: Callable[[str], None],
) -> None:
    """The loop on the rank that asks, logs, saves checkpoints and finishes the run."""
    plan, oracle = session.plan, session.oracle
    assert oracle is not None
    board = Board(run, start)
    saved = time.perf_counter()
    began = saved - run.seconds()
    unit = plan.unit if plan.scope == "total" else "answer"

    def after_round(round: int, figures: dict[str, Any]) -> None:
        nonlocal saved
        record = {"round": round, "answers": oracle.position,
                  f"epsilon_per_{unit}": plan.epsilon if plan.epsilon < float("inf") else None,
                  } | figures  # fmt: skip
        run.log(record, time.perf_counter() - began)
        shown = newest_images(session.bank, min(plan.queries_per_round, 1000))
        board.round(record, shown, session.student.predict(shown))
        if progress is not None:
            progress(record)
        last = round + 1 == plan.rounds
        if time.perf_counter() - saved > _CHECKPOINT_SECONDS or last:
            run.save_checkpoint(session.state_dict(), round + 1)
            prune_releases(run, plan, round + 1, config.loop.window)
            saved = time.perf_counter()
        if last and (passes := config.student.refit_epochs):
            say(f"now a fresh student makes {passes} passes over all answers")

    distil(session, start=start, after_round=after_round)
    board.close()
    finish(
        run, plan, session.student, session.synthesizer, session.bank, oracle.federation(),
        dict(oracle.seconds), began,
    )  # fmt: skip


def open_teacher_oracle(plan: Plan, run: Run, synthesizer: Synthesizer) -> Oracle:
    """The oracle of the run's own teacher, charged to its ledger.

    Raises:
        UserError: clients answer on this route, or the teacher is another one.
    """
    config = run.config
    if config.privacy.route == "federated":
        raise UserError("privacy.route: federated; accepted by transcribe: other routes")
    home = read_folder(run.teacher_folder)
    if home.uuid != run.teacher:
        raise UserError(
            f"teacher {home.path}: is {home.uuid}, the run has asked {run.teacher}; restore it"
        )
    teacher = load_teacher(config, home)
    enter(run, plan, home)
    return Oracle(teacher, plan, ledger_of(run), run.id, run.started, run.bank, config.seed)
