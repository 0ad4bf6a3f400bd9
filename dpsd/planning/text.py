"""The plan of one run in words."""

from typing import Any

from dpsd.console import duration, percent
from dpsd.console import show_epsilon as show
from dpsd.planning.priors import priors_line
from dpsd.privacy.federated_wording import labels_lines
from dpsd.privacy.units import ADD_OR_REMOVE
from dpsd.privacy.wording import (
    guarantee_line,
    mechanism_lines,
    relations_line,
    whom_it_protects,
)

_LONG = 4 * 3600  # seconds


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
        *(_window_line(facts["window"]) if facts["window"] < n else ()),
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


def _window_line(window: int) -> list[str]:
    return [
        f"The bank keeps the newest {window:,} of them (loop.window): the passes at the end do not "
        "see older ones, which are charged all the same."
    ]


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
        f"{cost['images_at_once']} images (student.batch_size or micro_batch)"
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
