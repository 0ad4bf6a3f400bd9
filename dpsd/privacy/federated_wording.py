"""The words of a federated statement."""

from typing import Any

from dpsd.console import show_epsilon as show
from dpsd.privacy.record import is_beside
from dpsd.privacy.wording import (
    groups_line,
    guarantee_line,
    mechanism_lines,
    near_duplicates_line,
    parameters_line,
    whom_it_protects,
)

_LISTED = 20  # clients; for more the text gives a summary, and the facts list all


def federated_lines(facts: dict[str, Any]) -> list[str]:
    """The statement's body: the guarantees of one client and of the federation."""
    g, unit, f = facts["guarantee"], facts["unit"], facts["federation"]
    total = facts["scope"] == "total"
    lines = [
        f"Federation: {f['clients']:,} clients planned; at least {f['fewest']:,} answered in each "
        f"of {f['rounds']:,} rounds (quorum {f['quorum']:,}).",
        "Unit of privacy: none."
        if unit == "none"
        else f"Unit of privacy: one {unit}; neighbouring worlds: {facts['relation']}.",
        *mechanism_lines(facts),
        f"Aggregation of the clients' answers: {f['aggregate']}; post-processing.",
        f"Answers: each client gives at most {facts['answers_cap']:,} by the plan, one to an image "
        f"that is asked at most {facts['asks_per_image']} time(s); {facts['answers_made']:,} "
        "images were asked.",
    ]
    lines += labels_lines(facts["mechanism"], unit)
    if unit == "record" and f["partition"] in ("dirichlet", "classes"):
        lines.append(
            "Who holds which row was drawn by its label, in place of clients that have data of "
            "their own; it is the same in both worlds."
        )
    for i, delta in enumerate(facts["deltas"]):
        if total:
            lines.append(guarantee_line(facts, delta, g["epsilon_at"][i]))
        else:
            lines.append(
                f"At delta {delta:.3g}: epsilon {show(g['epsilon_at'][i])} per answer of one "
                f"client; epsilon {show(g['worst_case_epsilon_at'][i])} for one record of that "
                f"client, or for the client, in the worst case (all {facts['answers_cap']:,} "
                "answers of the client change together)."
            )
    lines += [*parameters_line(facts), *_composition(facts), *_answered(f)]
    if total:
        lines += [whom_it_protects(unit), *groups_line(facts)]
    else:
        lines += near_duplicates_line(facts)
    lines.append(f"Accountant: {facts['accountant']}.")
    return [*lines, _earlier(facts)]


def labels_lines(mechanism: dict[str, Any], unit: str) -> list[str]:
    """The sentence on the clients' label histograms, if any, for plan and statement."""
    if mechanism.get("aggregate") != "labels":
        return []
    if unit == "none":
        return [
            "Label histogram: each client gives the server how many of its records have which "
            "class, once, without noise."
        ]
    return [
        "Label histogram: each client releases how many of its records have which class, once, "
        f"with discrete Gaussian noise, sigma {mechanism['labels_sigma']:.6g} in each count; "
        "sensitivity L2 1.41421 (one record leaves a count and enters another); charged "
        "together with the answers."
    ]


def _composition(facts: dict[str, Any]) -> list[str]:
    g, rounds, n = facts["guarantee"], facts["federation"]["rounds"], facts["answers_cap"]
    if facts["unit"] == "none":
        return []
    if facts["unit"] == "answer":
        return [
            f"Each client, over {rounds:,} rounds: an image is asked at most "
            f"{facts['asks_per_image']} time(s) in all of them, which the epsilon per answer "
            "covers; it does not protect a record: for one record read the worst case, all "
            f"{n:,} answers of that client.",
            "The federation, over all rounds: one answer belongs to one client and the others' "
            "do not depend on it, so that all clients' answers together have the same epsilon "
            "per answer.",
        ]
    if facts["unit"] == "record":
        labels = "" if facts["labels"] is None else " and its label histogram"
        return [
            f"Each client, over {rounds:,} rounds: all its {n:,} answers{labels} compose to "
            f"epsilon {show(g['epsilon'])} for one record of that client at delta "
            f"{facts['delta']:.3g}.",
            "The federation, over all rounds: one record lives with one client and the others' "
            f"answers do not depend on it, so that all clients' releases together have epsilon "
            f"{show(g['epsilon'])} for one record. Who has records with several clients is "
            "protected less.",
        ]
    return [
        f"Each client, over {rounds:,} rounds: its votes enter up to {n:,} sums, which compose to "
        f"epsilon {show(g['epsilon'])} for one client at delta {facts['delta']:.3g}, against all "
        "who read the release; against the server nothing is claimed.",
        f"The federation, over all rounds: the same epsilon {show(g['epsilon'])} for one client; "
        "the noise is for the votes that were summed, whatever their number.",
    ]


def _answered(federation: dict[str, Any]) -> list[str]:
    found = federation["answered"]
    failures = [f"{name}, {why}" for name, f in found.items() for why in f["failures"]]
    lines = []
    if len(found) <= _LISTED:
        each = "; ".join(f"{name}: {f['answers']:,}" for name, f in found.items())
        lines.append(f"Answers given, by client: {each}.")
    else:
        total = sum(f["answers"] for f in found.values())
        lines.append(f"Answers given by all clients: {total:,}; statement.json lists them.")
    more = f" and {len(failures) - _LISTED} more" if len(failures) > _LISTED else ""
    return [*lines, f"Failures: {'; '.join(failures[:_LISTED]) or 'none'}{more}."]


def _earlier(facts: dict[str, Any]) -> str:
    g, f = facts["guarantee"], facts["federation"]
    clients = "clients" if f["partition"] == "own" or facts["unit"] != "record" else "data"
    count = sum(not is_beside(r["run"]) for r in facts["earlier_runs"])
    own = "" if facts["unit"] == "client" else (
        " Each client's own ledger also holds what other servers asked."
    )  # fmt: skip
    if clients == "clients" and f["partition"] != "own" and facts["unit"] != "none":
        own += " Another partition of the same data makes other clients, and is not counted here."
    if not count:
        return f"Earlier runs on the same {clients}: none in the server's ledger.{own}"
    if facts["scope"] == "total":
        return (
            f"Earlier runs on the same {clients}: {count} in the server's ledger. Together with "
            f"this one they have epsilon {show(g['composed_epsilon'])} for one {facts['unit']} at "
            f"delta {facts['delta']:.3g}.{own}"
        )
    return (
        f"Earlier runs on the same clients: {count} in the server's ledger. An image that all of "
        f"them asked has epsilon {show(g['composed_epsilon'])} per answer at delta "
        f"{facts['delta']:.3g}; all answers of one client in all runs together: epsilon "
        f"{show(g['composed_worst_case_epsilon'])} for one record in the worst case.{own}"
    )
