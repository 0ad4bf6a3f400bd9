"""The parts of a finished run: weights, statement, pictures, card, report; sealed by hashes."""

import shutil
import time
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from dpsd.config import load_config
from dpsd.files import read_json, write_json
from dpsd.generator.synthesizer import Synthesizer
from dpsd.privacy.ledger import Ledger
from dpsd.privacy.near_duplicates import kept_queries, near_duplicates
from dpsd.privacy.plan import Plan
from dpsd.privacy.record import is_beside
from dpsd.privacy.signature import sign, signing_key
from dpsd.privacy.statement import Made, file_hashes, statement_facts
from dpsd.privacy.statement_text import statement_text
from dpsd.privacy.units import TEST_RECORD
from dpsd.runs.card import write_card
from dpsd.runs.folder import Run
from dpsd.runs.pictures import curves, newest_images, synthetic_grid
from dpsd.runs.release import student_header
from dpsd.student.bank import Bank
from dpsd.student.student import Student


def finish(
    run: Run,
    plan: Plan,
    student: Student,
    synthesizer: Synthesizer,
    bank: Bank,
    federation: dict[str, Any] | None,
    seconds: dict[str, float],
    began: float,
) -> None:
    """Write everything that a finished run holds, then seal its release.

    `federation`: what the statement says of clients, where there are any.
    """
    metadata = student_header(run.config.student.model, plan.facts)
    run.save_weights("student", student.average.state_dict(), metadata)
    generator = synthesizer.adversarial
    run.save_weights(
        "generator", {} if generator is None else generator.model.state_dict(), metadata
    )
    statement = state(run, plan, federation)
    synthetic_grid(newest_images(bank, 100), run.release / "synthetic.png")
    curves(run.metrics(), run.release / "curves.png")
    write_card(run, statement, None)
    run.write_report(report_of(run, plan, statement, time.perf_counter() - began, seconds))
    seal(run)


def publish_attack(run: Run, name: str, section: str) -> None:
    """Put an attack's section on the card of a run whose data are public, and seal it again.

    The section is kept as `private/attacks/<name>/card.md`. When `dpsd evaluate` writes the card
    anew, the card has it too.
    """
    (run.private / "attacks" / name / "card.md").write_text(section + "\n")
    measured = run.private / "evaluation.json"
    evaluation = read_json(measured) if measured.is_file() else None
    write_card(run, read_json(run.release / "statement.json"), evaluation)
    seal(run)


def state(run: Run, plan: Plan, federation: dict[str, Any] | None) -> dict[str, Any]:
    """Write the statement from the ledger, and a private copy of the ledger."""
    ledger = Ledger(run.ledger_folder, run.ledger)
    signing_key(run.ledger_folder)  # made on first use, before a release is remembered
    near = near_duplicates(kept_queries(run.bank)) if plan.scope == "per_answer" else None
    head = ledger.head
    before = run.release / "statement.json"
    paid = read_json(before).get("accuracy") if before.exists() else None
    made = Made(
        run=run.id, teacher=run.teacher, ledger=run.ledger, head=head, runs=ledger.runs(head),
        allowances=ledger.allowances(head),
        finished=datetime.now(UTC).isoformat(timespec="seconds"),
        near_duplicates=None if near is None else asdict(near), federation=federation,
        other_runs=_other_runs(run, made_by={r.run for r in ledger.runs(head)}),
    )  # fmt: skip
    facts = statement_facts(load_config(run.release / "config.yaml"), plan, made)
    if paid:  # accuracies that were released stay so when a finished run is opened again
        facts["accuracy"] = paid
    write_statement(run, facts)
    ledger.remember(run.release)
    shutil.copyfile(ledger.path, run.private / "ledger.jsonl")
    return facts


def _other_runs(run: Run, made_by: set[str]) -> int:
    """How many runs the data set's ledger holds that the run's own does not."""
    if run.dataset is None or run.dataset[0] == run.ledger_folder:
        return 0
    others = (r for r in Ledger(*run.dataset).runs() if r.unit != TEST_RECORD)
    return sum(r.run not in made_by and not is_beside(r.run) for r in others)


def write_statement(run: Run, facts: dict[str, Any]) -> None:
    """The statement as facts and as text."""
    write_json(run.release / "statement.json", facts)
    (run.release / "statement.txt").write_text(statement_text(facts))


def seal(run: Run) -> None:
    """Enter the hashes of all released files in the statement, and sign it. The last writes.

    Raises:
        UserError: the key beside the run's ledger is missing, or cannot be read.
    """
    for unfinished in run.release.rglob("*.partial"):
        unfinished.unlink()  # left by a process that was stopped
    path = run.release / "statement.json"
    facts = read_json(path)
    write_json(path, facts | {"files": file_hashes(run.release)})
    sign(run.release, signing_key(run.ledger_folder))


def report_of(
    run: Run, plan: Plan, statement: dict[str, Any], wall: float, seconds: dict[str, float]
) -> dict[str, Any]:
    """`report.json`: the figures that scripts read. `evaluate` fills in the accuracies."""
    g = statement["guarantee"]
    return {
        "schema_version": statement["schema_version"],
        "private": statement["private"],
        "teacher": {"uuid": run.teacher, "accuracy": None},
        "student": {"accuracy": None, "agreement": None, "ece": None},
        "evaluation": {"split": None, "rows": None, "agreement_with": None},
        "privacy": {
            "unit": plan.unit,
            "relation": plan.relation,
            "scope": statement["scope"],
            "mechanism": plan.mechanism.name,
            "epsilon": g["epsilon"] if statement["private"] else None,
            "delta": plan.delta,
            "worst_case_epsilon": g["worst_case_epsilon"] if statement["private"] else None,
            "configured_epsilon": run.config.privacy.epsilon,
            "seeded_noise": statement["seeded_noise"],
        },
        "answers": statement["answers_made"],
        "wall_seconds": wall,
        "seconds": seconds,
        "seed": run.config.seed,
    }
