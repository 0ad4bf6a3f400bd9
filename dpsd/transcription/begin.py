"""How a run begins, or goes on after a stop: its teacher, its folder and its ledger."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from dpsd.config import Config
from dpsd.errors import UserError
from dpsd.privacy.inherited import read_dp_ledger
from dpsd.privacy.ledger import Ledger
from dpsd.privacy.plan import Plan
from dpsd.runs.folder import (
    Run,
    create_run,
    declared_public,
    default_run_folder,
    refuse_existing,
    resume_run,
)
from dpsd.teachers.folder import TeacherFolder
from dpsd.teachers.teacher import ensure_teacher, load_teacher


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

    The teacher's own ledger needs the answers: later runs for the unit answer compose with them.
    The data set's ledger needs the training, which the answers post-process: later claims about its
    records count it.
    """
    if home.facts.get("dataset") is None or home.kind == "ensemble":
        return
    training = read_dp_ledger(home.path, home.uuid)
    answers = replace(plan, training=None).record(run.id, run.started)
    trained = replace(
        answers, event=training.event, asks_per_image=1, seeded_noise=training.seeded_noise,
        unit="record", teacher=home.uuid,
    )  # fmt: skip
    Ledger(*home.ledger("record")).open_run(trained)
    Ledger(*home.ledger("answer")).open_run(answers)


def _check_voters(config: Config, home: TeacherFolder) -> None:
    """The plan's number of votes is the teacher's, and one teacher's answers are no votes."""
    if home.kind == "federation":
        return  # the server holds no teacher
    planned = config.teacher.shards if config.privacy.mechanism == "noisy_votes" else None
    if home.shards != planned:
        raise UserError(
            f"teacher.shards: {planned} by the plan (mechanism {config.privacy.mechanism}), but "
            f"{home.path} holds {home.shards or 'no'} shards; accepted: the same number, with "
            "mechanism noisy_votes alone"
        )
    if config.privacy.unit == "user" and home.unit != "user":
        raise UserError(
            f"privacy.unit: user, but {home.path} was sharded by record: one user may reach "
            "many teachers; accepted: an ensemble that was trained with data.user_ids"
        )
