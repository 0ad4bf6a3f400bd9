"""The parts of a finished run: weights, statement, pictures, card, report; sealed by hashes."""

import shutil
import time
from typing import Any

from dpsd.config import PublicFacts
from dpsd.files import read_json, write_json
from dpsd.generator.synthesizer import Synthesizer
from dpsd.privacy.ledger import Ledger
from dpsd.privacy.plan import Plan
from dpsd.privacy.statement import file_hashes, statement_facts
from dpsd.privacy.statement_text import statement_text
from dpsd.runs.card import write_card
from dpsd.runs.folder import Run
from dpsd.runs.pictures import curves, newest_images, synthetic_grid
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
    metadata = {
        "model": run.config.student.model,
        "shape": list(plan.facts.shape),
        "classes": plan.facts.classes,
    }
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
    declared = _declared(run, plan.facts)
    facts = statement_facts(plan, run.id, run.teacher, ledger.runs(), declared, federation)
    write_json(run.release / "statement.json", facts)
    (run.release / "statement.txt").write_text(statement_text(facts))
    shutil.copyfile(ledger.path, run.private / "ledger.jsonl")
    return facts


def seal(run: Run) -> None:
    """Enter the hashes of all released files in the statement. This is the last write."""
    for unfinished in run.release.rglob("*.partial"):
        unfinished.unlink()  # left by a process that was stopped
    path = run.release / "statement.json"
    facts = read_json(path)
    write_json(path, facts | {"files": file_hashes(run.release)})


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


def _declared(run: Run, facts: PublicFacts) -> dict[str, Any]:
    g = run.config.generator
    source = f"declared public by the user: {g.source}" if g.kind == "images" else g.kind
    return {
        "image_shape": list(facts.shape),
        "classes": facts.classes,
        "pixel_range": list(facts.pixel_range),
        "query_images": source,
    }
