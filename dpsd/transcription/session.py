"""How a run begins, or goes on after a stop: its folder, its state, the same on all ranks."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from dpsd.config import Config
from dpsd.device import broadcast, world_size
from dpsd.errors import UserError
from dpsd.generator.synthesizer import Synthesizer
from dpsd.privacy.inherited import read_dp_ledger
from dpsd.privacy.ledger import Ledger
from dpsd.privacy.oracle import Door
from dpsd.privacy.plan import Plan
from dpsd.runs.folder import (
    Run,
    create_run,
    declared_public,
    default_run_folder,
    refuse_existing,
    resume_run,
)
from dpsd.student.bank import Bank, bank_bytes
from dpsd.student.student import Student
from dpsd.teachers.folder import TeacherFolder
from dpsd.teachers.teacher import ensure_teacher, load_teacher


def expected_bytes(config: Config, plan: Plan) -> int:
    """Memory that the bank and one round of queries need, in bytes, on top of torch."""
    pixels = math.prod(plan.facts.shape)
    bank = bank_bytes(min(config.loop.window, plan.answers), plan.facts.shape, plan.facts.classes)
    return bank + plan.queries_per_round * config.generator.select * (pixels + 8)


def check_memory(config: Config, plan: Plan) -> None:
    """Refuse a bank that will not fit in memory.

    Raises:
        UserError: with what is needed and what is free.
    """
    need, have = expected_bytes(config, plan), available_bytes()
    if need > have:
        raise UserError(
            f"loop.window: {config.loop.window} images and {plan.queries_per_round} queries a "
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


def open_run_folder(
    config: Config,
    out: Path | str | None,
    resume: bool,
    data_is_public: bool,
    say: Callable[[str], None],
    home: TeacherFolder | None,
) -> Run:
    """A new run's folder, once teacher and guarantee are known to be there; or a stopped one's.

    Args as of `dpsd.transcription.transcribe.transcribe`.

    Raises:
        UserError: bad input, in one line; nothing is written then.
    """
    path = Path(out) if out is not None else default_run_folder(config)
    if resume:
        run = resume_run(path, config)
        return declared_public(run) if data_is_public and not run.data_is_public else run
    refuse_existing(path)
    if home is None:
        home = ensure_teacher(config, say)
        load_teacher(config, home)  # an unreadable teacher fails before anything is written
    _check_voters(config, home)
    if config.privacy.route == "inherited":
        read_dp_ledger(home.path, home.uuid)  # so does a guarantee that is not there
        if home.facts.get("dataset") is None:
            raise UserError(
                f"teacher {home.path}: names no data set whose ledger its training is charged to, "
                "so no guarantee is inherited; train it anew"
            )
    folder, owner = home.ledger(config.privacy.unit)
    return create_run(
        path, config, home.uuid, home.path, data_is_public=data_is_public,
        ledger=owner, ledger_folder=folder,
    )  # fmt: skip


def ledger_of(run: Run) -> Ledger:
    """The ledger that a run is charged to.

    Raises:
        UserError: it lacks answers that the run has had, so that it is another or an older one;
            nothing is written then.
    """
    had = max((int(p.stem) + 1 for p in run.bank.glob("*.safetensors")), default=0)
    path = run.ledger_folder / "ledger.jsonl"
    ledger = Ledger(run.ledger_folder, run.ledger) if path.exists() or not had else None
    charged = 0 if ledger is None else ledger.charged(run.id)
    if ledger is None or charged < had:
        raise UserError(
            f"ledger {path}: holds {charged} answers of run {run.id}, which has had more; restore "
            "the ledger that it was charged to"
        )
    return ledger


def enter_elsewhere(run: Run, plan: Plan, home: TeacherFolder) -> None:
    """Enter a run on a teacher that was trained by DP-SGD in the other ledger too.

    Its answers are entries of that teacher's table, whoever asks next for the unit answer; and they
    are post-processing of a training that every later claim about the data set's records counts.
    """
    if home.facts.get("dataset") is None or (home.facts.get("recipe") or {}).get("shards"):
        return
    training = read_dp_ledger(home.path, home.uuid)
    answers = replace(plan, training=None).record(run.id, run.started)
    trained = replace(
        answers, event=training.event, asks_per_image=1, seeded_noise=training.seeded_noise,
        unit="record", teacher=home.uuid,
    )  # fmt: skip
    Ledger(*home.ledger("record")).open_run(trained)
    Ledger(*home.ledger("answer")).open_run(answers)


def restore(
    run: Run, plan: Plan, student: Student, synthesizer: Synthesizer, bank: Bank, oracle: Door
) -> int:
    """Load the newest checkpoint and refill the bank; returns the round to go on with."""
    state = run.load_checkpoint()
    if state is None:
        (run.release / "metrics.jsonl").unlink(missing_ok=True)
        return 0
    student.load_state_dict(state["student"])
    synthesizer.load_state_dict(state["synthesizer"])
    start = int(state["round"])
    for round in range(start):
        recalled = oracle.recall(round * plan.queries_per_round)
        if recalled is not None:
            images, scores = recalled[0], plan.mechanism.log_likelihood(recalled[1])
            bank.add(images[plan.trained_on(round)], scores[plan.trained_on(round)])
    kept = [m for m in run.metrics() if m["round"] < start]
    (run.release / "metrics.jsonl").unlink(missing_ok=True)
    for record in kept:
        run.log(record)
    return start


def share_start(start: int, student: Student, synthesizer: Synthesizer, bank: Bank) -> int:
    """Give rank 0's restored state to the other ranks."""
    if world_size() == 1:
        return start
    start, state, made, images, scores, added = broadcast(
        (start, student.state_dict(), synthesizer.state_dict(), bank.images[: len(bank)],
         bank.scores[: len(bank)], bank.added)
    )  # fmt: skip
    student.load_state_dict(state)
    synthesizer.load_state_dict(made)
    bank.images[: len(images)], bank.scores[: len(scores)], bank.added = images, scores, added
    return start


def prune_releases(run: Run, plan: Plan, rounds: int, window: int) -> None:
    """Drop kept releases that have slid out of the bank's window."""
    oldest = rounds * plan.queries_per_round - window - plan.queries_per_round
    for path in run.bank.glob("*.safetensors"):
        if int(path.stem) < oldest:
            path.unlink()


def _check_voters(config: Config, home: TeacherFolder) -> None:
    """The plan's number of votes is the teacher's, and one teacher's answers are no votes."""
    if config.privacy.route == "federated":
        return  # the server holds no teacher
    voters = (home.facts.get("recipe") or {}).get("shards")
    planned = config.teacher.shards if config.privacy.mechanism == "noisy_votes" else None
    if voters != planned:
        raise UserError(
            f"teacher.shards: {planned} by the plan (mechanism {config.privacy.mechanism}), but "
            f"{home.path} holds {voters or 'no'} shards; accepted: the same number, with mechanism "
            "noisy_votes alone"
        )
    if config.privacy.unit == "user" and home.facts["recipe"].get("unit") != "user":
        raise UserError(
            f"privacy.unit: user, but {home.path} was sharded by record: one user may reach "
            "many teachers; accepted: an ensemble that was trained with data.user_ids"
        )
