"""Transcribe a teacher: a plan, a session, the loop, and what is left behind."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from dpsd.config import Config
from dpsd.console import working
from dpsd.device import (
    agreed,
    broadcast,
    join_processes,
    leave_processes,
    pick_device,
    rank,
    world_size,
)
from dpsd.errors import UserError
from dpsd.generator.synthesizer import Synthesizer
from dpsd.privacy.oracle import Door, Oracle
from dpsd.privacy.plan import Plan, make_plan
from dpsd.privacy.ranks import Helper, LoneDoor, SharedOracle
from dpsd.runs.finish import finish
from dpsd.runs.folder import Run
from dpsd.runs.pictures import Board, newest_images
from dpsd.runs.rounds import is_kept, keep_student
from dpsd.student.bank import open_bank
from dpsd.teachers.folder import TeacherFolder, read_folder
from dpsd.teachers.teacher import load_teacher
from dpsd.transcription.begin import discard, open_run_folder, plan_of
from dpsd.transcription.entries import enter, ledger_of
from dpsd.transcription.loop import distil
from dpsd.transcription.session import (
    Session,
    check_ranks,
    check_room,
    new_learners,
    prune_releases,
    window_of,
)

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

    Under torchrun all processes make the call and see the folders of run and teacher. They share
    the work, and ledger and releases are those of one process. Where `open_oracle` is given, as in
    federations, rank 0 asks alone and the others learn with it.

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
    device = pick_device(config.device)
    join_processes(device)
    try:
        session, run = _begin(config, device, out, resume, data_is_public, say, open_oracle, home)
        start = session.restore(run)
        if run is None:  # this rank asks its share, learns, and writes nothing
            distil(session, start=start, after_round=lambda round, figures: None)
        else:
            _lead(config, session, run, start, progress, say)
        session.bank.close()
    finally:
        leave_processes()
    return run  # type: ignore[return-value]  # None on the other ranks


def _begin(
    config: Config,
    device: torch.device,
    out: Path | str | None,
    resume: bool,
    data_is_public: bool,
    say: Callable[[str], None],
    open_oracle: OpenOracle | None,
    home: TeacherFolder | None,
) -> tuple[Session, Run | None]:
    """The session on every rank, and rank 0's run; what cannot begin leaves nothing behind."""
    plan = make_plan(config)
    agreed(lambda: check_room(config, plan, None if out is None else Path(out)))
    check_ranks(plan)
    if config.privacy.insecure_seeded_noise:
        say("WARNING: the noise is seeded and can be predicted; this run is NOT PRIVATE")
    student, synthesizer = agreed(lambda: new_learners(config, plan, device))
    run = agreed(
        lambda: (
            open_run_folder(config, out, resume, data_is_public, say, home) if rank() == 0 else None
        )
    )
    try:
        private: Path = broadcast(None if run is None else run.private.absolute())
        bank = open_bank(
            window_of(config, plan), plan.facts.shape, plan.facts.classes,
            releases=private / "bank", folder=private / "window",
        )  # fmt: skip
        plan = agreed(lambda: plan if run is None else plan_of(run))
        door = _open_door(plan, run, synthesizer, open_oracle)
    except UserError:
        if run is not None and not resume:  # refused before its first answer
            discard(run)
        raise
    return Session(plan, student, synthesizer, bank, door), run


def _open_door(
    plan: Plan, run: Run | None, synthesizer: Synthesizer, open_oracle: OpenOracle | None
) -> Door:
    """The oracle; in several processes the part of it that each rank has."""
    opened = agreed(
        lambda: (
            None if run is None else (open_oracle or open_teacher_oracle)(plan, run, synthesizer)
        )
    )
    if world_size() == 1:
        assert opened is not None
        return opened
    door: SharedOracle | Helper | LoneDoor
    if open_oracle is not None:
        door = LoneDoor(opened, plan)
    else:
        facts = broadcast(
            run and (run.config, run.teacher_folder, run.teacher, run.bank.absolute())
        )
        door = agreed(lambda: opened if isinstance(opened, SharedOracle) else _help(plan, *facts))
    door.meet()
    return door


def _help(plan: Plan, config: Config, folder: Path, teacher: str, keep: Path) -> Helper:
    """What another rank than 0 has in the place of the oracle."""
    home = read_folder(folder)
    if home.uuid != teacher:
        raise UserError(f"teacher {folder}: is {home.uuid} here, {teacher} on rank 0")
    return Helper(load_teacher(config, home), plan, keep)


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
        if is_kept(round, plan.rounds):
            state = session.student.average.state_dict()
            keep_student(run, plan.facts, state, round, oracle.position)
        last = round + 1 == plan.rounds
        if time.perf_counter() - saved > _CHECKPOINT_SECONDS or last:
            run.save_checkpoint(session.state_dict(), round + 1)
            prune_releases(run, plan, round + 1, config.loop.window)
            saved = time.perf_counter()
        if last and (passes := config.student.refit_epochs):
            kept = len(session.bank)
            which = "all" if config.loop.window >= plan.answers else f"the newest {kept:,}"
            say(f"now a fresh student makes {passes} passes over {which} answers")

    if start < plan.rounds:
        working("rounds", oracle.position, plan.answers)
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
    oracle = Oracle if world_size() == 1 else SharedOracle
    return oracle(teacher, plan, ledger_of(run), run.id, run.started, run.bank, config.seed)
