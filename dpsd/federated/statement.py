"""The statement of a federated run: unit, trust, and the composition over rounds.

Facts and words for `dpsd.privacy.statement`. Every sentence that holds an epsilon names its unit.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dpsd.privacy.plan import Plan
    from dpsd.run import Run

_LISTED = 20  # clients; of more the text gives a summary, the facts all


def federation_facts(run: "Run", plan: "Plan") -> dict[str, Any]:
    """What the statement of a federated run holds besides the facts of any run.

    Returns:
        `trust`; `labels`, the release of each client's label histogram or None; `federation` with
        `clients` planned, `rounds`, `quorum`, `aggregate`, `fewest`, the least number of clients
        that answered in a round, and `answered`, by node what it gave.
    """
    from dpsd.federated.plan import TRUST, Combined, quorum
    from dpsd.federated.table import Table, totals
    from dpsd.privacy.accounting import VotesRelease
    from dpsd.privacy.ledger import event_facts

    f, rows = run.config.federated, Table(run).rows()
    sigma = plan.mechanism.labels_sigma if isinstance(plan.mechanism, Combined) else None
    by_round = [sum(r["clients"] for r in rows if r["round"] == n and r["answers"])
                for n in range(plan.rounds)]  # fmt: skip
    return {
        "trust": TRUST[plan.unit],
        "labels": None if sigma is None else event_facts(VotesRelease(sigma)),
        "federation": {
            "clients": f.clients,
            "rounds": plan.rounds,
            "quorum": quorum(run.config),
            "aggregate": f.aggregate,
            "fewest": min(by_round),
            "answered": totals(rows),
        },
    }


def federated_lines(facts: dict[str, Any]) -> list[str]:
    """The statement's body: what one client has, and what the federation has."""
    from dpsd.privacy.wording import guarantee_line, mechanism_lines, show, whom_it_protects

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
    if facts["labels"] is not None:
        lines.append(
            "Label histogram: each client released how many of its records have which class, once, "
            f"with discrete Gaussian noise, sigma {facts['labels']['sigma']:.6g} in each count; "
            "sensitivity L2 1.41421 (one record leaves a count and enters another); charged "
            "together with the answers."
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
    lines += [*_composition(facts), *_answered(f)]
    if total:
        lines.append(whom_it_protects(unit))
    lines.append(f"Accountant: {facts['accountant']}.")
    return [*lines, _earlier(facts)]


def _composition(facts: dict[str, Any]) -> list[str]:
    from dpsd.privacy.wording import show

    g, rounds, n = facts["guarantee"], facts["federation"]["rounds"], facts["answers_cap"]
    if facts["unit"] == "none":
        return []
    if facts["unit"] == "answer":
        return [
            f"Each client, over {rounds:,} rounds: the images differ, so that one answer keeps its "
            f"epsilon per answer; it does not protect a record: for one record read the worst "
            f"case, all {n:,} answers of that client.",
            "The federation, over all rounds: one answer belongs to one client and the others' "
            "do not depend on it, so that all clients' answers together have the same epsilon "
            "per answer.",
        ]
    if facts["unit"] == "record":
        return [
            f"Each client, over {rounds:,} rounds: all its {n:,} answers compose to epsilon "
            f"{show(g['epsilon'])} for one record of that client at delta {facts['delta']:.3g}.",
            "The federation, over all rounds: one record lives with one client and the others' "
            f"answers do not depend on it, so that all clients' answers together have epsilon "
            f"{show(g['epsilon'])} for one record. Who has records with several clients is "
            "protected less.",
        ]
    return [
        f"Each client, over {rounds:,} rounds: its votes enter all {n:,} sums, which compose to "
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
    from dpsd.privacy.wording import show

    g, count = facts["guarantee"], len(facts["earlier_runs"])
    if not count:
        return "Earlier runs on the same clients: none in the ledger."
    if facts["scope"] == "total":
        return (
            f"Earlier runs on the same clients: {count}. Together with this one they have epsilon "
            f"{show(g['composed_epsilon'])} for one {facts['unit']} at delta {facts['delta']:.3g}."
        )
    return (
        f"Earlier runs on the same clients: {count}. An image that all of them asked has epsilon "
        f"{show(g['composed_epsilon'])} per answer at delta {facts['delta']:.3g}; all answers of "
        f"one client in all runs together: epsilon {show(g['composed_worst_case_epsilon'])} for "
        "one record in the worst case."
    )
