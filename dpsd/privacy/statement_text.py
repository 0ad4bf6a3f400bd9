"""The statement in words, in the order that an expert reads it, for each route.

Every sentence that holds an epsilon names its unit. Facts come from `dpsd.privacy.statement`.
"""

import json
from typing import Any

from dpsd.console import show_epsilon as show
from dpsd.privacy.events import event_from_facts
from dpsd.privacy.federated_wording import federated_lines
from dpsd.privacy.officer import officer_lines
from dpsd.privacy.record import is_beside
from dpsd.privacy.units import ADD_OR_REMOVE
from dpsd.privacy.wording import (
    groups_line,
    guarantee_line,
    mechanism_lines,
    near_duplicates_line,
    parameters_line,
    relations_line,
    whom_it_protects,
)


def statement_text(facts: dict[str, Any]) -> str:
    """The statement in words, in the order that an expert reads it."""
    bodies = {"ensemble": _ensemble, "inherited": _inherited, "federated": federated_lines}
    body = bodies.get(facts["route"], _single)
    lines = [
        *_stamp(facts),
        *officer_lines(facts),
        "",
        f"Released: {facts['released']}.",
        *body(facts),
        *_budgets(facts),
        *_accuracies(facts),
        f"Trust: {facts['trust']}.",
        f"Declared public: {json.dumps(facts['declared_public'])}.",
        f"Covered: {facts['covered']}.",
        f"Not covered: {facts['not_covered']}.",
        f"Ledger: {facts['ledger']['owner']}, {facts['ledger']['entries']:,} lines, the last with "
        f"checksum {facts['ledger']['checksum']}.",
    ]
    return "\n".join(lines) + "\n"


def _stamp(facts: dict[str, Any]) -> list[str]:
    if facts["private"]:
        return []
    why = (
        "the noise was seeded and can be predicted"
        if facts["seeded_noise"]
        else "nothing was privatised, so epsilon is infinite for every unit"
    )
    lines = [f"NOT PRIVATE: {why}.", ""]
    if facts["seeded_noise"] and facts["guarantee"]["epsilon"] is not None:
        lines += ["The figures below are what fresh noise would have given.", ""]
    return lines


def _budgets(facts: dict[str, Any]) -> list[str]:
    """The data set's budget, how it was changed, and what the user allowed beyond the usual."""
    told = [f"epsilon {b['epsilon']:g} for one {b['unit']} at delta {b['delta']:g}, set {b['set']}"
            for b in facts["budgets"]]  # fmt: skip
    lines = [f"Budget of the data set, oldest first: {'; '.join(told)}."] if told else []
    if facts["units"] is not None and facts["delta"] >= 1 / facts["units"]:
        lines.append(
            f"The user allowed a delta at or above 1/M, M = {facts['units']:,} {facts['unit']}s: a "
            f"mechanism that publishes one {facts['unit']} whole could meet it."
        )
    if facts["allow_open"]:
        lines.append(
            "The user allowed this run to go on where a release without a finite epsilon for one "
            "record, user or client exceeds the data set's budget."
        )
    return lines


def _accuracies(facts: dict[str, Any]) -> list[str]:
    """Accuracies on test rows that were released with noise."""
    return [
        f"Accuracy on {a['rows']:,} {a['split']} rows: {100 * a['low']:.2f} to "
        f"{100 * a['high']:.2f} % ({100 * a['confidence']:g} % interval, noise included); released "
        f"with discrete Laplace noise, pure epsilon {show(a['epsilon'])} for one {a['unit']} "
        f"(replace-one; sensitivity 1/{a['rows']}); with all such releases of the data set: "
        f"epsilon {show(a['total_epsilon'])} for one {a['unit']}."
        for a in facts.get("accuracy", [])
    ]


def _single(facts: dict[str, Any]) -> list[str]:
    """One teacher: the unit is an answer; the worst case for a record stands beside it."""
    g, per = facts["guarantee"], "per answer"
    lines = [
        f"Unit of privacy: one {facts['unit']}; neighbouring worlds: {facts['relation']}."
        if facts["unit"] != "none"
        else "Unit of privacy: none.",
        *mechanism_lines(facts),
        f"Answers: at most {facts['answers_cap']:,} by the plan, {facts['answers_made']:,} made; "
        f"an image is asked at most {facts['asks_per_image']} time(s).",
        *near_duplicates_line(facts),
    ]
    for d, e, w in zip(facts["deltas"], g["epsilon_at"], g["worst_case_epsilon_at"], strict=True):
        lines.append(
            f"At delta {d:.3g}: epsilon {show(e)} {per}; "
            f"epsilon {show(w)} for one record, user or client in the worst case "
            f"(all {facts['answers_cap']:,} answers change together)."
        )
    lines += [
        *parameters_line(facts),
        "The epsilon per answer does not protect a record: one changed training record may change "
        "every answer of a single teacher. For records read the worst case.",
        f"Accountant: {facts['accountant']}.",
    ]
    if facts["earlier_runs"]:
        seeded = any(r["seeded_noise"] for r in facts["earlier_runs"])
        runs = sum(not is_beside(r["run"]) for r in facts["earlier_runs"])
        why = "; the noise of at least one of them can be predicted" * seeded
        lines.append(
            f"Earlier runs on the same teacher: {runs}. An image that all of "
            f"them asked has epsilon {show(g['composed_epsilon'])} per answer at delta "
            f"{facts['delta']:.3g}; all answers of all runs together: epsilon "
            f"{show(g['composed_worst_case_epsilon'])} for one record in the worst case{why}."
        )
    else:
        lines.append("Earlier runs on the same teacher: none in its ledger.")
    return lines


def _ensemble(facts: dict[str, Any]) -> list[str]:
    """Votes of teachers on disjoint shards: the unit is a record or a user."""
    g, unit = facts["guarantee"], facts["unit"]
    lines = [
        f"Unit of privacy: one {unit}; neighbouring worlds: {facts['relation']}. "
        f"One {unit} reaches the training of one teacher, by a key that does not depend on the "
        "data.",
        *mechanism_lines(facts),
        f"Answers: at most {facts['answers_cap']:,} by the plan, {facts['answers_made']:,} made; "
        "all answers compose, and epsilon is stated for the cap.",
        *(guarantee_line(facts, d, e)
          for d, e in zip(facts["deltas"], g["epsilon_at"], strict=True)),
        *parameters_line(facts),
        whom_it_protects(unit),
        *groups_line(facts),
        f"Accountant: {facts['accountant']}.",
    ]  # fmt: skip
    return [*lines, *_earlier_on_the_data(facts)]


def _earlier_on_the_data(facts: dict[str, Any]) -> list[str]:
    """What the data set's ledger holds besides this run."""
    g, unit, earlier = facts["guarantee"], facts["unit"], facts["earlier_runs"]
    if not earlier:
        return ["Earlier runs on the same data: none in its ledger."]
    why = "" if g["composed_epsilon"] is not None or g["epsilon"] is None else (
        f"; the noise of at least one of them can be predicted or was not made for a {unit}"
    )  # fmt: skip
    runs = [r for r in earlier if not is_beside(r["run"])]
    same = sum(r["teacher"] == facts["teacher"] for r in runs)
    nothing = f", of which {same} on the same teacher add nothing" * bool(same)
    once = " (each training by DP-SGD counted once)" * any(
        event_from_facts(r["event"]).kind == "dp_sgd" for r in earlier
    )
    relation = " under replace-one" * (facts["route"] == "inherited")
    return [
        f"Earlier runs on the same data: {len(runs)}{nothing}. Together with this one they have "
        f"epsilon {show(g['composed_epsilon'])} for one {unit}{relation} at delta "
        f"{facts['delta']:.3g}{once}{why}."
    ]


def _inherited(facts: dict[str, Any]) -> list[str]:
    """A teacher trained with DP: the student has the teacher's own guarantee."""
    g = facts["guarantee"]
    figures = zip(facts["deltas"], g["epsilon_at"], g["add_or_remove_epsilon_at"], strict=True)
    return [
        f"Unit of privacy: one record; neighbouring worlds: {facts['relation']}; beside it "
        f"{ADD_OR_REMOVE}.",
        *mechanism_lines(facts),
        f"Answers: at most {facts['answers_cap']:,} by the plan, {facts['answers_made']:,} made; "
        "they are post-processing of the teacher, so that their number does not matter.",
        *(relations_line(d, r, a) for d, r, a in figures),
        whom_it_protects("record"),
        *groups_line(facts),
        "The choice of hyper-parameters is not covered: if the teacher's were chosen on the "
        "private data, that choice is not in epsilon.",
        f"Accountant: {facts['accountant']}.",
        *_earlier_on_the_data(facts),
    ]
