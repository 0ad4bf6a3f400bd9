"""The five lines with which a statement opens, for a data-protection officer."""

from typing import Any

from dpsd.console import show_epsilon as show
from dpsd.privacy.record import is_beside

_SURE = 0.9999  # rates above it are no bound


def officer_lines(facts: dict[str, Any]) -> list[str]:
    """Who is protected, the total, what it means, what is not protected, who is responsible."""
    return [
        f"1. Protected: {_who(facts)}",
        f"2. Total: {_total(facts)}",
        f"3. What that means: {_meaning(facts)}",
        f"4. Not protected: {_not_protected(facts)}",
        f"5. Responsible: {_responsible(facts)}",
    ]


def _who(facts: dict[str, Any]) -> str:
    unit, federated = facts["unit"], facts["route"] == "federated"
    if not facts["private"]:
        return "nobody."
    readers = "whoever reads the release"
    if federated and unit != "client":
        readers += " and against the server"
    if unit == "answer":
        whose = "a client's teacher" if federated else "the teacher"
        return (
            f"single answers of {whose}, against {readers}. No record, user or client is protected "
            "by an epsilon per answer."
        )
    who = {
        "record": "each record of the training data",
        "user": "each user, with all of that user's rows",
        "client": "each client, with all that it holds",
    }[unit]
    return f"{who}, against {readers}."


def _total(facts: dict[str, Any]) -> str:
    g, unit = facts["guarantee"], facts["unit"]
    runs = sum(not is_beside(r["run"]) for r in facts["earlier_runs"])
    before = f"with {runs:,} earlier run(s)" if runs else "no earlier run"
    if not facts["private"]:
        return f"no finite epsilon for any unit ({before} in the ledger)."
    if facts["scope"] == "total":
        return (
            f"epsilon {show(g['composed_epsilon'])} for one {unit} at delta {facts['delta']:.3g}, "
            f"{before} in the ledger."
        )
    whose = "server" if facts["route"] == "federated" else "teacher"
    worst = show(g["composed_worst_case_epsilon"])
    line = (
        f"epsilon {show(g['composed_epsilon'])} per answer at delta {facts['delta']:.3g}, {before} "
        f"in the {whose}'s ledger; epsilon {worst} for one record, user or client in the worst case"
    )
    if not facts["other_runs"]:
        return f"{line}."
    return (
        f"{line}, by these runs alone: the data set's ledger holds {facts['other_runs']:,} other "
        "run(s), on other teachers, so that no epsilon for one record, user or client is bounded."
    )


def _meaning(facts: dict[str, Any]) -> str:
    g, unit = facts["guarantee"], facts["unit"]
    test = "a test that wrongly accuses 1 % of the outsiders finds at most"
    whole = g["record_highest_tpr"]
    if not facts["private"] or (facts["scope"] == "total" and whole > _SURE):
        return "no bound: up to 100 % of the members can be found at 1 % false alarms."
    if facts["scope"] == "total":
        return f"{test} {_share(whole)} of the {unit}s that took part."
    record = "no bound: up to 100 %" if whole > _SURE else f"at most {_share(whole)}"
    return (
        f"{test} {_share(g['highest_tpr'])} of the answers that were given; of the records, users "
        f"or clients: {record}."
    )


def _not_protected(facts: dict[str, Any]) -> str:
    if not facts["private"]:
        return "everything."
    told = {
        "answer": "records, users and clients; the answers to look-alikes of an image; what the "
        "classes look like",
        "record": "what the data say of classes and groups; somebody with several records is "
        "protected less, as stated below",
        "user": "what the data say of classes and groups",
        "client": "what the data say of classes and groups; an owner of several clients is "
        "protected less, as stated below",
    }[facts["unit"]]
    return f"{told}; and what stands under 'Not covered' below."


def _responsible(facts: dict[str, Any]) -> str:
    name = facts["dataset"] or "not named"
    count = "" if facts["units"] is None else f" ({facts['units']:,} {facts['unit']}s)"
    owner = facts["owner"] or "not stated (set owner in the configuration)"
    kept = facts["retention"] or "not stated"
    return (
        f"{owner}; data set: {name}{count}; begun {facts['started'] or 'not stated'}, ended "
        f"{facts['finished'] or 'not stated'}; the private part of the run is kept: {kept}."
    )


def _share(rate: float) -> str:
    return f"{100 * rate:.3g} %"
