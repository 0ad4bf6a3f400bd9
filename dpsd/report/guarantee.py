"""The section on the guarantee: who is protected, how well, and what earlier runs have used up."""

import math
from typing import Any

import numpy as np

from dpsd.console import show_epsilon
from dpsd.privacy import accounting
from dpsd.privacy.composition import Releases
from dpsd.privacy.officer import officer_lines
from dpsd.privacy.statement import FALSE_POSITIVES, stated_releases
from dpsd.privacy.tradeoff import highest_tprs
from dpsd.privacy.wording import mechanism_lines
from dpsd.report.parts import Drawing, Facts, Heading, Part, Row, Section, Slider, Text, Worlds
from dpsd.report.plots import Axis, Curve, bars, curves, share, short, stacked
from dpsd.report.source import Source

_RATES = tuple(float(x) for x in np.geomspace(1e-4, 0.999, 40))
_DELTAS = tuple(10.0**-k for k in range(3, 10))
SURE = 0.9999
"""A rate from which we say that there is no bound."""
_MOST_RUNS = 8  # of which a stacked bar has a part of its own


def guarantee_section(source: Source) -> Section:
    """Everything here follows from the released statement."""
    facts = source.facts
    lines = [line.partition(". ")[2].partition(": ") for line in officer_lines(facts)]
    parts: list[Part] = [
        Facts([(name, text) for name, _, text in lines]),
        Heading("What the guarantee compares"),
        Worlds(_unit(facts), facts["relation"], bool(facts["private"])),
        *(Text(line, "note") for line in mechanism_lines(facts)),
    ]
    if not facts["private"]:
        why = "no finite epsilon holds for any unit of a run that is stamped not private"
        parts += [Text(f"Curve, slider and budget: {why}.", "missing"), *_covered(facts)]
        return Section("guarantee", "Guarantee", False, parts)
    parts += [
        Heading("What it means for an attacker"),
        Row([_tradeoff(facts), *_groups(facts)]),
        *_no_groups(facts),
        Heading("Epsilon at another delta"),
        _slider(facts),
        Heading("This run and earlier ones"),
        *_history(facts),
        *_covered(facts),
    ]
    return Section("guarantee", "Guarantee", False, parts)


def unit_words(facts: dict[str, Any]) -> str:
    """What stands behind an epsilon of the statement: "per answer", "for one record"."""
    return f"for one {facts['unit']}" if facts["scope"] == "total" else "per answer"


def _unit(facts: dict[str, Any]) -> str:
    return "answer" if facts["unit"] == "none" else str(facts["unit"])


def _tradeoff(facts: dict[str, Any]) -> Drawing:
    """The highest true-positive rate over the false-positive rate, for unit and record."""
    once, _, others, everything = stated_releases(facts)
    unit, g = _unit(facts), facts["guarantee"]
    found = [Curve(f"one {unit}", _RATES, highest_tprs(once + others, _RATES))]
    bounded = facts["scope"] == "total" or not facts["other_runs"]
    if facts["scope"] == "per_answer":
        rates = highest_tprs(everything, _RATES) if bounded else [1.0] * len(_RATES)
        name = "record, user or client" + ("" if min(rates) < 1 else ": no bound")
        found.append(Curve(name, _RATES, rates))
    at = f"{share(g['highest_tpr'])} at {share(FALSE_POSITIVES)}"
    whole = ""
    if len(found) > 1:
        record = g["record_highest_tpr"]
        bound = "there is no bound" if record > SURE else f"it finds at most {share(record)}"
        whole = f" For one record, user or client {bound}."
    return curves(
        found, Axis("false alarms among outsiders", share, log=True, limits=(1e-4, 1)),
        Axis("found, at most", share, log=True, limits=(1e-4, 1.15)),
        diagonal="guessing", point=(FALSE_POSITIVES, g["highest_tpr"], at),
        alt=f"Curve of the highest share of members that any test can find, over its share of "
        f"false alarms, for one {unit}: {at} false alarms.{whole}",
        caption=f"No test, whatever it computes, lies above its curve. All runs in the ledger "
        f"count. Unit of the first curve: one {unit}.{whole}",
    )  # fmt: skip


def _covered(facts: dict[str, Any]) -> list[Part]:
    rows = [("Trust", "trust"), ("Covered", "covered"), ("Not covered", "not_covered")]
    return [
        Heading("What is covered, and what is not"),
        Facts([(name, f"{facts[key]}.") for name, key in rows]),
    ]


def _groups(facts: dict[str, Any]) -> list[Drawing]:
    """Epsilon for several records of one person."""
    g, unit = facts["guarantee"], facts["unit"]
    if not g.get("groups"):
        return []
    known = [(1, g["composed_epsilon"]), *((p["k"], p["epsilon"]) for p in g["groups"])]
    finite = [(k, e) for k, e in known if e is not None]
    if not finite:
        return []
    told = "; ".join(f"{k}: {show_epsilon(e)}" for k, e in known)
    return [bars(
        [f"{k} {unit}{'s' * (k > 1)}" for k, _ in finite], [("epsilon", [e for _, e in finite])],
        x=f"epsilon at delta {facts['delta']:.3g}", x_format=short, most=None,
        alt=f"Bars of epsilon for several {unit}s that belong together: {told}.",
        caption=f"Somebody with several {unit}s is protected less. Epsilon for so many {unit}s "
        f"of one owner, all runs together: {told}.",
    )]  # fmt: skip


def _no_groups(facts: dict[str, Any]) -> list[Part]:
    if facts["guarantee"].get("groups"):
        return []
    if facts["unit"] == "user":
        return [Text("The unit is a user with all rows: nobody has several.", "note")]
    return [Text("No figure for several records of one person: an epsilon per answer does not "
                 "protect even one.", "note")]  # fmt: skip


def _slider(facts: dict[str, Any]) -> Slider:
    """Epsilon of the unit at deltas from 1e-3 to 1e-9, and at the delta of the statement."""
    once, _, others, _ = stated_releases(facts)
    deltas = sorted({*_DELTAS, float(facts["delta"])}, reverse=True)
    unit = unit_words(facts)

    def text(releases: Releases, delta: float) -> str:
        epsilon = accounting.compose_epsilon(releases, delta)
        return f"{short(epsilon) if math.isfinite(epsilon) else 'infinite'} {unit}"

    return Slider(
        deltas=[f"{d:.1e}".replace(".0e", "e").replace("e-0", "e-") for d in deltas],
        epsilons=[text(once, d) for d in deltas],
        composed=[text(once + others, d) for d in deltas],
        start=deltas.index(float(facts["delta"])),
    )


def _history(facts: dict[str, Any]) -> list[Part]:
    """What each earlier run adds to this run's epsilon, beside the budget of the data set."""
    delta, budget, earlier = float(facts["delta"]), _budget(facts), facts["earlier_runs"]
    if budget is not None:
        delta = float(budget["delta"])
    shares, before, many = list[tuple[str, float]](), 0.0, len(earlier) > _MOST_RUNS
    for n in (*range(min(len(earlier), _MOST_RUNS) + 1), *([len(earlier)] if many else [])):
        once, _, others, _ = stated_releases(facts | {"earlier_runs": earlier[:n]})
        epsilon = accounting.compose_epsilon(once + others, delta)
        if not math.isfinite(epsilon):
            return [Text(f"With the earlier runs of this ledger no finite epsilon holds "
                         f"{unit_words(facts)}, so that no bar is drawn.", "missing")]  # fmt: skip
        name = "this run" if n == 0 else f"run of {earlier[n - 1]['started'] or 'unknown date'}"
        if n > _MOST_RUNS:
            name = f"{n - _MOST_RUNS} more runs"
        shares.append((name, epsilon - before))
        before = epsilon
    used = [(name, size) for name, size in shares if size > 0]
    total = f"epsilon {show_epsilon(before)} {unit_words(facts)} at delta {delta:.3g}"
    if budget is None and not earlier:
        return [Text(f"No earlier run in the ledger, no budget: this run alone takes {total}.")]
    limit = None if budget is None else (f"budget {budget['epsilon']:g}", float(budget["epsilon"]))
    parts: list[Part] = [stacked(
        used, limit=limit, x=f"epsilon {unit_words(facts)}, delta {delta:.3g}",
        alt=f"One bar: this run and {len(earlier)} earlier ones take {total}"
        + ("" if limit is None else f", of a budget of {budget['epsilon']:g}" if budget else ""),
        caption=f"This run, and what each earlier run in the ledger adds to it: {total} in all. "
        "Runs compose, so that the parts of a bar are smaller than the runs' own epsilons.",
    )]  # fmt: skip
    if budget is None:
        what = "the data set" if facts["scope"] == "total" else "a record, user or client"
        parts.append(Text(f"No total budget was set for {what} (dpsd budget sets one for one "
                          f"record, user or client).", "note"))  # fmt: skip
    if facts["scope"] == "per_answer" and facts["other_runs"]:
        parts.append(Text(
            f"The data set's ledger holds {facts['other_runs']:,} other run(s) on other teachers. "
            f"They are not in this bar, whose unit is one {_unit(facts)}.", "note"))  # fmt: skip
    return parts


def _budget(facts: dict[str, Any]) -> dict[str, Any] | None:
    """The newest budget for the unit of the run."""
    mine = [b for b in facts["budgets"] if b["unit"] == facts["unit"]]
    return mine[-1] if mine else None
