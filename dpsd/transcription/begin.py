"""How a run begins, or goes on after a stop: its teacher, its plan and its folder."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from dpsd.config import Config
from dpsd.data.identity import dataset_name, read_dataset
from dpsd.data.users import read_roster
from dpsd.errors import UserError
from dpsd.privacy.inherited import read_dp_ledger
from dpsd.privacy.plan import Plan, inherit, make_plan
from dpsd.runs.begin import create_run, refuse_existing, resume_run
from dpsd.runs.folder import Run, declared_public, default_run_folder
from dpsd.teachers.folder import TeacherFolder
from dpsd.teachers.teacher import ensure_teacher, load_teacher
from dpsd.transcription.entries import admit


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
        admit(config, make_plan(config))
        home = ensure_teacher(config, say)
        load_teacher(config, home)  # an unreadable teacher fails before anything is written
    _check_voters(config, home)
    if config.privacy.route == "inherited":
        read_dp_ledger(home.path, home.uuid)  # so does a guarantee that is not there
        if home.dataset() is None:
            raise UserError(
                f"teacher {home.path}: names no data set whose ledger its training is charged to, "
                "so no guarantee is inherited; train it anew"
            )
    config = with_known(config, home)
    make_plan(config)  # a delta that is too large for so many units is refused here
    folder, owner = home.ledger(config.privacy.unit)
    return create_run(
        path, config, home.uuid, home.path, data_is_public=data_is_public,
        ledger=owner, ledger_folder=folder, dataset=home.dataset(),
        grouping=_grouping(config, home),
    )  # fmt: skip


def plan_of(run: Run) -> Plan:
    """The plan of a run, with the guarantee that it inherits."""
    plan = replace(make_plan(run.config), asked=run.teacher, grouping=run.grouping)
    if plan.route != "inherited":
        return plan
    return inherit(plan, read_dp_ledger(run.teacher_folder, run.teacher))


def discard(run: Run) -> None:
    """Remove the folder of a run that never began."""
    shutil.rmtree(run.path)


def with_known(config: Config, home: TeacherFolder) -> Config:
    """The configuration with what is known now: the data set's name, and M.

    M is the public number of records or users.
    """
    data, rows = config.data, home.facts.get("rows")
    units = data.units
    if config.privacy.unit == "user" and data.user_ids is not None:
        units = read_roster(data.user_ids)
    elif config.privacy.unit == "record" and rows is not None:
        units = int(rows["train"])
    if data.units not in (None, units):
        raise UserError(f"data.units: {data.units}; accepted: {units}, as the data have, or null")
    dataset, charged = data.dataset, home.dataset()
    if charged is not None and (name := read_dataset(charged[0])["name"]) != dataset_name(config):
        dataset = name
    known = data.model_copy(update={"units": units, "dataset": dataset})
    return config.model_copy(update={"data": known})


def _grouping(config: Config, home: TeacherFolder) -> str:
    """Which rows make one user (by the teacher's roster) or one client (by the federation)."""
    unit = config.privacy.unit
    return home.uuid if unit == "client" else home.roster if unit == "user" else ""


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
