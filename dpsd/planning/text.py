"""Plans in words: the plan of one run, and the open routes."""

from typing import Any

from dpsd.console import duration, percent
from dpsd.console import show_epsilon as show
from dpsd.planning.candidates import AUGMENT, MODEL
from dpsd.planning.priors import priors_line
from dpsd.planning.votes import SHORTFALL, WORTH
from dpsd.privacy.federated_wording import labels_lines
from dpsd.privacy.units import ADD_OR_REMOVE
from dpsd.privacy.wording import (
    guarantee_line,
    mechanism_lines,
    relations_line,
    whom_it_protects,
)
from dpsd.tables import Table

_LONG = 4 * 3600  # seconds
_NAMES = {"mnist": "MNIST", "fashion_mnist": "Fashion-MNIST"}


def describe_text(facts: dict[str, Any]) -> str:
    """The plan in words; every epsilon stands beside its unit."""
    n, shape = facts["answers"], " x ".join(map(str, facts["declared_public"]["shape"]))
    unread = facts["route"] == "inherited" and facts["training"] is None
    lines = []
    if not facts["private"] and not unread:
        why = "the noise is seeded and can be predicted" if facts["seeded_noise"] else (
            "nothing is privatised, so epsilon is infinite for every unit"
        )  # fmt: skip
        lines += [f"NOT PRIVATE: {why}.", ""]
    beside = f"; beside it {ADD_OR_REMOVE}" if facts["route"] == "inherited" else ""
    queries, last = facts["queries_per_round"], facts["queries_in_last_round"]
    queries = f"{queries:,}" + (f", the last of {last:,}" if last != queries else "")
    lines += [
        f"Route: {facts['route']}. Unit of privacy: {_one(facts['unit'])}.",
        f"Neighbouring worlds: {facts['relation']}{beside}.",
        *(_single_lines(facts) if facts["scope"] == "per_answer" else mechanism_lines(facts)),
        *labels_lines(facts["mechanism"], facts["unit"]),
        f"Answers: {n:,} at most ({facts['rounds']} rounds of {queries});"
        f" an image is asked at most {facts['asks_per_image']} time(s).",
        "",
    ]
    if facts["clients"] is not None:
        lines[-1:] = [facts["clients"], ""]
    if unread:
        lines.append(
            "Epsilon for one record: the teacher's own, read from its DP ledger when the run "
            "starts; without a whole DP ledger of this very teacher nothing is claimed."
        )
    else:
        lines += [_epsilon_line(facts, row) for row in facts["epsilon_at"]]
    return "\n".join(lines + _ending(facts, shape)) + "\n"


def _single_lines(facts: dict[str, Any]) -> list[str]:
    m = facts["mechanism"]
    detail = [f"{k} {m[k]}" for k in ("kind", "vector", "bound", "bound_norm", "top_k")
              if m.get(k) is not None]  # fmt: skip
    sensitivity = m.get("sensitivity")
    return [
        f"Mechanism: {m['mechanism']}{', ' if detail else ''}{', '.join(detail)}.",
        f"Sensitivity: {'by probabilities' if sensitivity is None else f'L2 {sensitivity:.6g}'} "
        f"({m['derivation']}).",
        f"Noise: {m['noise']}.",
    ]


def _epsilon_line(facts: dict[str, Any], row: dict[str, Any]) -> str:
    n = facts["answers"]
    if facts["route"] == "inherited":
        return relations_line(row["delta"], row["per_record"], row["per_record_add_or_remove_one"])
    if facts["scope"] == "total":
        return guarantee_line(
            {"unit": facts["unit"], "answers_cap": n}, row["delta"], row[f"per_{facts['unit']}"]
        )
    e, w = show(row["per_answer"]), show(row["per_record_worst_case"])
    return (
        f"At delta {row['delta']:.3g}: epsilon {e} per answer; epsilon {w} for one record, "
        f"user or client in the worst case (all {n:,} answers change together)."
    )


def _ending(facts: dict[str, Any], shape: str) -> list[str]:
    cost, classes = facts["estimate"], facts["declared_public"]["classes"]
    parts = [f"{name} {'not timed' if s is None else duration(s)}"
             for name, s in cost["seconds_by_part"].items()]  # fmt: skip
    protects = whom_it_protects(facts["unit"]) if facts["scope"] == "total" else (
        "The epsilon per answer does not protect a record: one changed training record may change "
        "every answer of a single teacher. For records read the worst case."
    )  # fmt: skip
    earlier = {
        "ensemble": "Earlier runs on the same data compose with this one; the statement will count "
        "them.",
        "federated": "Earlier runs on the same clients (for records: on the same data) compose "
        "with this one; the statement will count them.",
        "inherited": "Earlier runs on the same teacher add nothing: they are post-processing. Runs "
        "on other teachers of the same data compose; the statement will count them.",
    }.get(
        facts["route"],
        "Earlier runs on the same teacher compose with this one; the statement will count them.",
    )
    return [
        protects,
        *_near_duplicates_lines(facts["near_duplicates"]),
        earlier,
        f"Declared public: images of {shape}, {classes} classes{_photographs(facts)}.",
        priors_line(facts["priors"]),
        f"Trust: {facts['trust']}.",
        f"Covered: {facts['covered']}.",
        f"Not covered: {facts['not_covered']}.",
        "",
        f"Memory, estimated: {cost['bytes'] / 2**30:.1f} GiB at the peak{_activations(cost)}."
        f"{_data_line(cost)}",
        *_bank_lines(cost),
        f"Time, estimated: {duration(cost['seconds'])} on {cost['device']} with {cost['threads']} "
        f"thread(s) ({', '.join(parts)}), extrapolated from a few synthetic batches; "
        "training a missing teacher comes on top.",
        *_shorter_lines(cost["seconds"]),
    ]


def _shorter_lines(seconds: float) -> list[str]:
    """What makes a long run shorter."""
    if seconds <= _LONG:
        return []
    return [
        "Shorter with fewer answers (privacy.answers) or a smaller student (student.model, as in "
        "cnn-small)."
    ]


def _photographs(facts: dict[str, Any]) -> str:
    names = facts["declared_public"]["photographs"]
    return f", the photographs {', '.join(names)}" if names else ""


def _activations(cost: dict[str, Any]) -> str:
    """What a batch of the student takes, where that is much."""
    size = cost["activation_bytes"]
    if size < 2**30:
        return ""
    where = "of which" if cost["device"] == "cpu" else f"and on {cost['device']}"
    return (
        f", {where} {size / 2**30:.1f} GiB for the activations of a batch of "
        f"{cost['batch_size']} images (student.batch_size)"
    )


def _data_line(cost: dict[str, Any]) -> str:
    where = cost["private_images"]
    return "" if where is None else f" {where[0].upper()}{where[1:]}."


def _bank_lines(cost: dict[str, Any]) -> list[str]:
    """Where a large bank lies."""
    if not cost["bank_on_disk"]:
        return []
    return [
        f"Disk, estimated: {cost['disk_bytes'] / 2**30:.1f} GiB in the run's private folder at "
        "the peak: the bank is too large for memory and is read from the releases that the run "
        "keeps."
    ]


def _near_duplicates_lines(found: dict[str, Any] | None) -> list[str]:
    """The unit answer alone: look-alikes are entries of their own."""
    if found is None or found["share"] is None:
        return []
    return [
        f"Near-duplicates, expected: {percent(found['share'], 1)} of {found['compared']:,} images "
        "drawn now, before any training, lie within a root mean square of "
        f"{found['distance']:g} of 255 grey levels (8 x 8 averages) of an earlier one; each is an "
        "entry of its own, and answers to look-alikes say alike. More images have a larger share; "
        "the statement has the run's own."
    ]


def _one(unit: str) -> str:
    return "none" if unit == "none" else f"one {unit}"


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
