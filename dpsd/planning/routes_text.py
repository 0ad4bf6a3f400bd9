"""The open routes in words: what each guarantees, what it costs, and which one to take."""

from typing import Any

from dpsd.console import duration, percent
from dpsd.console import show_epsilon as show
from dpsd.planning.candidates import AUGMENT, MODEL
from dpsd.planning.votes import SHORTFALL, WORTH
from dpsd.privacy.units import ADD_OR_REMOVE
from dpsd.tables import Table

_NAMES = {"mnist": "MNIST", "fashion_mnist": "Fashion-MNIST"}


def planner_text(facts: dict[str, Any]) -> str:
    """The result of `plan_routes` in words; every epsilon stands beside its unit."""
    lines = [
        f"To protect: one {facts['unit']} at epsilon {facts['epsilon_asked']:g} per "
        f"{facts['unit']}, delta {facts['delta']:g}.",
        f"Neighbouring worlds: {facts['relation']}.",
        f"You have: {_holdings(facts['has'])}.",
        "",
    ]
    if facts["checkpoint_only"] and facts["chosen"] is None:
        lines += [*_checkpoint_only(facts), ""]
    for route in facts["routes"]:
        lines += [_headline(route), *(f"  {line}" for line in _guarantee(route)), ""]
    lines += _choice(facts)
    for route in facts["routes"]:
        if "estimate" not in route:
            continue
        if route["route"] == "ensemble":
            lines += ["", *_ensemble(route)]
        lines += ["", *_cost(route)]
    return "\n".join(lines) + "\n"


def _holdings(has: dict[str, Any]) -> str:
    if has["data"] is None:
        return "a checkpoint only" if has["own_teacher"] else "no data and no teacher"
    records = "" if has["rows"] is None else f", {has['rows']:,} training records"
    parts = [f"data ({has['data']}{records})"]
    if has["users"] is not None:
        parts.append(f"user ids ({has['users']:,} users)")
    if has["own_teacher"]:
        parts.append("a teacher of your own")
    if has["dp_ledger"]:
        parts.append("its DP ledger")
    return ", ".join(parts)


def _checkpoint_only(facts: dict[str, Any]) -> list[str]:
    single = facts["routes"][0]
    e, unit = single["epsilon"], facts["unit"]
    whom = "record-level" if unit == "record" else f"{unit}-level or record-level"
    return [
        f"No {whom} claim is possible: without the training data, and without a DP ledger of the "
        f"teacher's own training, nothing bounds how much one {unit} changed this teacher.",
        "What could be said instead (--unit answer): each answer is private, epsilon "
        f"{show(e['per_answer'])} per answer at delta {single['delta']:g}; and beside it the worst "
        f"case, in which one {unit} changes all {single['answers']:,} answers: epsilon "
        f"{show(e['per_record_worst_case'])} for one record, user or client at delta "
        f"{single['delta']:g}.",
    ]


def _headline(route: dict[str, Any]) -> str:
    if not route["open"]:
        return f"Route {route['route']}: closed; {route['why']}."
    return f"Route {route['route']}: open" + (f", but {route['why']}." if route["why"] else ".")


def _guarantee(route: dict[str, Any]) -> list[str]:
    e, delta = route["epsilon"], route.get("delta")
    if e is None:
        return [f"Unit: {route['unit']}; {route['relation']}."]
    unit = f"Unit: one {route['unit']}; {route['relation']}."
    if route["route"] == "single":
        return [
            unit,
            f"Epsilon {show(e['per_answer'])} per answer at delta {delta:g}; epsilon "
            f"{show(e['per_record_worst_case'])} for one record, user or client in the worst case "
            f"(all {route['answers']:,} answers change together).",
        ]
    if route["why"] and "per_record_add_or_remove_one" not in e:
        return [unit]
    if route["route"] == "ensemble":
        return [
            unit,
            f"Epsilon {show(e['per_' + route['unit']])} for one {route['unit']} at delta "
            f"{delta:g}, all {route['answers']:,} answers together. Earlier runs on the same data "
            "compose with this one; the statement will count them.",
        ]
    lines = [
        unit,
        f"Epsilon {show(e['per_record'])} for one record at delta {delta:g}; under "
        f"{ADD_OR_REMOVE} epsilon {show(e['per_record_add_or_remove_one'])} for one record; any "
        "number of answers.",
    ]
    if (t := route.get("training")) is not None:
        lines.append(
            f"DP-SGD: noise multiplier {t['noise_multiplier']:.4g}, sampling rate "
            f"{t['sample_rate']:.4g}, {t['steps']:,} steps, model {route['model']}."
        )
    return lines


def _choice(facts: dict[str, Any]) -> list[str]:
    chosen, unit = facts["chosen"], facts["unit"]
    if chosen is None:
        return [f"Choice: none; no open route protects one {unit}."]
    if chosen == "inherited" and facts["has"]["dp_ledger"]:
        return ["Choice: inherited, since the teacher has the guarantee already."]
    opened = [r["route"] for r in facts["routes"] if "estimate" in r]
    why = {
        "inherited": "DP-SGD spends epsilon for one record once, and then any number of answers is "
        "free",
        "ensemble": f"it is the open route that protects one {unit}",
        "single": "it is the route whose unit is an answer",
    }[chosen]
    if len(opened) > 1:
        why += (
            "; take ensemble where you want teachers that DP-SGD cannot train, or already have "
            "them, or want to protect users"
        )
    left = ""
    if chosen != "single" and facts["has"]["own_teacher"] and not facts["has"]["dp_ledger"]:
        left = " Your own teacher is not used: teachers are trained anew on the data."
    return [f"Choice: {chosen}, since {why}.{left}"]


def _ensemble(route: dict[str, Any]) -> list[str]:
    c, unit, k = route["chosen"], route["unit"], route["assumed_classes"]
    lines = [
        f"Ensemble: {c['shards']:,} shards of {c['rows_per_teacher']:.3g} records, "
        f"{c['answers']:,} answers; noise {c['sigma']:.4g} votes in each count (epsilon "
        f"{show(route['epsilon']['per_' + unit])} for one {unit}).",
        f"Expected: {percent(c['correct'], 1)} of the answers name the class that most teachers "
        f"name; most teachers are right on {percent(c['right'], 1)} of real images.",
        f"Assumed, never measured on your data: teachers ({MODEL}, augmentation {AUGMENT}) vote as "
        f"on {_NAMES[route['stand_in']]} (public, scripts/bench shards) at the same number of "
        "records a class; images of the default mix of priors.",
        "",
        "Why so many shards (answers: doubled as long as that brings "
        f"{100 * WORTH:g} points; 'student': right - {SHORTFALL:g} / sqrt(effective answers), "
        "rough, it only ranks):",
    ]
    rows = [
        (
            f"{row['shards']:,}" + (" <" if row["shards"] == c["shards"] else "  "),
            f"{row['rows_per_teacher']:.4g}",
            f"{row['answers']:,}",
            percent(row["correct"], 1),
            percent(row["right"], 1),
            f"{row['effective']:,.0f}",
            percent(max(0.0, row["student"]), 1),
        )
        for row in route["shards"]
    ]
    head = ("shards  ", "records each", "answers", "correct", "right", "effective", "student")
    lines += _indented(Table(head, rows, align="r" * len(head)))
    lines += [
        "",
        f"Votes against noise, {c['shards']:,} teachers, {k} classes; the other votes even, or "
        "half of them with one rival (gap in standard deviations of a difference of two noisy "
        "counts):",
    ]
    gaps = [
        (
            f"{row['share']:.2f}",
            *(
                cell
                for how in ("even", "rival")
                for cell in (
                    f"{row[f'gap_{how}']:,.0f} = {row[f'deviations_{how}']:.2f} sd",
                    percent(row[f"correct_{how}"], 1),
                )
            ),
        )
        for row in route["vote_shares"]
    ]
    columns = ("share", "gap even", "correct", "gap rival", "correct")
    return [*lines, *_indented(Table(columns, gaps, align="r" * len(columns)))]


def _indented(table: Table) -> list[str]:
    return [f"  {line}" for line in table.text().splitlines()]


def _cost(route: dict[str, Any]) -> list[str]:
    e = route["estimate"]
    names = {"teachers": "training the teachers", "teacher": "answers"}
    parts = ", ".join(
        f"{names.get(name, name)} {'not timed' if s is None else duration(s)}"
        for name, s in e["seconds_by_part"].items()
    )
    lines = [
        f"Cost of {route['route']}, timed here on synthetic images: about {duration(e['seconds'])} "
        f"on {e['device']} ({parts}); {e['bytes'] / 2**30:.1f} GiB."
    ]
    if "set" in route:
        lines.append(f"To run it: --set {' '.join(route['set'])}")
    return lines
