"""What a run enters in which ledger, and what its data set's budget says about it.

A run is charged to one ledger: its data set's for the units record and user, else its teacher's.
The data set's ledger has every run on the data set, whatever its route and unit. So later claims
about its records count it: votes as votes, DP-SGD as its training, answers of a teacher without DP
as open, since nothing bounds what they tell of a record.
"""

from dataclasses import replace

from dpsd.config import Config
from dpsd.data.identity import dataset_folder, dataset_name, read_dataset
from dpsd.errors import UserError
from dpsd.files import read_json
from dpsd.privacy.chain import Head
from dpsd.privacy.events import OpenRelease
from dpsd.privacy.inherited import DpTraining, read_dp_ledger
from dpsd.privacy.ledger import Ledger
from dpsd.privacy.plan import Plan, inherit
from dpsd.privacy.record import RunRecord, is_beside
from dpsd.runs.folder import Run
from dpsd.teachers.folder import TeacherFolder, read_folder


def ledger_of(run: Run) -> Ledger:
    """The ledger that a run is charged to.

    Raises:
        UserError: it lacks answers that the run has had, or lines that a release names, so that it
            is another or an older one; nothing is written then.
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
    check_releases(ledger)
    return ledger


def check_releases(ledger: Ledger) -> None:
    """Refuse a ledger that lacks lines that a release on this machine names.

    Raises:
        UserError: it was cut, or restored from before that release.
    """
    for release in ledger.releases():
        try:
            stated = read_json(release / "statement.json")["ledger"]
            owner, head = stated["owner"], Head(int(stated["entries"]), str(stated["checksum"]))
        except (UserError, LookupError, TypeError, ValueError):
            continue  # moved, or removed
        if owner == ledger.teacher and not ledger.holds(head):
            raise UserError(
                f"ledger {ledger.path}: lacks line {head.entries} that the statement of {release} "
                "names: it was cut, or restored from before; restore the newest one"
            )


def enter(run: Run, plan: Plan, home: TeacherFolder) -> None:
    """Enter a run in the ledger that it is charged to, and in its data set's.

    Raises:
        UserError: the run stands there with another plan.
        BudgetError: it would exceed a budget of the data set.
    """
    charged, dataset = ledger_of(run), home.dataset()
    if dataset is None:
        charged.open_run(*plan.records(run.id, run.started))
        return
    ledger = Ledger(*dataset)
    check_releases(ledger)
    training = read_dp_ledger(home.path, home.uuid) if home.kind == "dp_sgd" else None
    records = about_records(plan, training, run.id, run.started)
    ledger.admit(*records)
    if plan.training is not None:  # later runs for the unit answer compose with its answers
        answers = replace(plan, training=None).records(run.id, run.started)
        Ledger(*home.ledger("answer")).open_run(*answers)
    if charged.path != ledger.path:
        _refuse_copy(charged, ledger, run, home)
        charged.open_run(*plan.records(run.id, run.started))
    ledger.open_run(*records)  # last: what it holds, the teacher's ledger holds too


def _refuse_copy(own: Ledger, data: Ledger, run: Run, home: TeacherFolder) -> None:
    """Refuse a teacher's ledger that lacks runs of the teacher that the data set's ledger has."""
    held = {r.run for r in own.runs()} | {run.id}
    asked = (
        r.run
        for r in data.runs()
        if r.asked == home.uuid and not is_beside(r.run) and r.unit not in ("record", "user")
    )  # those are charged to the data set's ledger
    if lost := [name for name in asked if name not in held]:
        raise UserError(
            f"ledger {own.path}: lacks run {lost[0]} of this teacher, which the data set's ledger "
            f"{data.path} holds: the teacher's folder was copied, or its ledger restored from "
            "before; accepted: the folder with the newest ledger"
        )


def about_records(
    plan: Plan, training: DpTraining | None, run: str, started: str = ""
) -> list[RunRecord]:
    """The lines of a run in its data set's ledger.

    Args:
        plan: of the run.
        training: of a teacher that was trained by DP-SGD.
        run: its id.
        started: when.
    """
    record = plan.record(run, started)
    if plan.unit in ("record", "user") or (plan.unit == "client" and record.event.kind == "votes"):
        return plan.records(run, started)
    if training is not None:
        trained = replace(
            record, event=training.event, asks_per_image=1, unit="record",
            seeded_noise=training.seeded_noise, teacher=training.teacher_uuid,
        )  # fmt: skip
        return [trained]
    return [replace(record, event=OpenRelease(), asks_per_image=1)]


def admit(config: Config, plan: Plan) -> None:
    """Refuse a run that would exceed a budget, before a teacher is trained and anything is written.

    The training of a missing teacher by DP-SGD is looked at when its noise is known
    (`dpsd.teachers.dataset.admit_training`).

    Raises:
        BudgetError: with what is spent and what would fit.
    """
    name, t = dataset_name(config), config.teacher
    if name is None:
        return
    folder = dataset_folder(t.root, name)
    if not (folder / "ledger.jsonl").exists():
        return
    kind, training = "plain" if t.dp.epsilon is None else "dp_sgd", None
    if t.path is not None and (home := read_folder(t.path)).kind == "dp_sgd":
        kind, training = home.kind, read_dp_ledger(home.path, home.uuid)
        plan = inherit(plan, training) if plan.route == "inherited" else plan
    if kind == "dp_sgd" and training is None:
        return
    ledger = Ledger(folder, read_dataset(folder)["uuid"])
    ledger.admit(*about_records(plan, training, "a new run"))
