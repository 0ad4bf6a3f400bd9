"""The statement in words, in the order that an expert reads it, for each route.

Every sentence that holds an epsilon names its unit. Facts come from `dpsd.privacy.statement`.
"""

import json
from typing import Any

COVERED = (
    "the student's weights, the generator's weights, every image sampled and every label given by "
    "them, the public metrics and pictures: all post-processing of the answers and public facts"
)
_NOT_COVERED = (
    "hyper-parameters chosen on private data; side channels (time, memory, power); floating-point "
    "attacks on releases that are floats; figures measured on private data; "
)
_LEFT_OUT = {
    "single": "the teacher itself",
    "none": "the teacher itself",
    "ensemble": "the teachers themselves; other models trained on the same data whose answers are "
    "not in this ledger",
    "federated": "the clients' teachers themselves; other models trained on the same data; which "
    "clients take part, fall silent or fail; a person or an owner behind several clients",
    "inherited": "the choice of the teacher's own hyper-parameters on private data; other models "
    "trained on the same data that are not in this ledger; noise drawn in floats while the teacher "
    "was trained",
}
TRUST = (
    "whoever runs the transcription holds the teacher and is trusted; readers of release/ are not"
)
ADD_OR_REMOVE = "two data sets of which one has one row more (add-or-remove-one)"


def not_covered(route: str) -> str:
    """What the guarantee of a route does not speak of."""
    return _NOT_COVERED + _LEFT_OUT[route]


def statement_text(facts: dict[str, Any]) -> str:
    """The statement in words, in the order that an expert reads it."""
    from dpsd.privacy.federated_wording import federated_lines

    bodies = {"ensemble": _ensemble, "inherited": _inherited, "federated": federated_lines}
    body = bodies.get(facts["route"], _single)
    lines = [
        *_stamp(facts),
        f"Released: {facts['released']}.",
        *body(facts),
        f"Trust: {facts['trust']}.",
        f"Declared public: {json.dumps(facts['declared_public'])}.",
        f"Covered: {facts['covered']}.",
        f"Not covered: {facts['not_covered']}.",
    ]
    return "\n".join(lines) + "\n"


def mechanism_lines(facts: dict[str, Any]) -> list[str]:
    """Mechanism, sensitivity and how it follows, noise: for plan and statement."""
    m = facts["mechanism"]
    if facts["route"] == "inherited":
        return _training_lines(facts.get("training"))
    return [
        f"Mechanism: {m['mechanism']}{_detail(m)}; noise: {m['noise']}.",
        f"Sensitivity: {_sensitivity(m)} ({m['derivation']}).",
    ]


def guarantee_line(facts: dict[str, Any], delta: float, epsilon: float | None) -> str:
    """One line of a guarantee for all answers together, at one delta."""
    return (
        f"At delta {delta:.3g}: epsilon {show(epsilon)} for one {facts['unit']} "
        f"(all {facts['answers_cap']:,} answers together)."
    )


def relations_line(delta: float, replace: float | None, add: float | None) -> str:
    """One line of an inherited guarantee, for both relations, at one delta."""
    return (
        f"At delta {delta:.3g}: epsilon {show(replace)} for one record under replace-one; "
        f"epsilon {show(add)} for one record under add-or-remove-one."
    )


def whom_it_protects(unit: str) -> str:
    """What a guarantee for a record or a user means for a reader who knows the answer unit."""
    if unit == "user":
        return (
            "This is the worst case already: it holds for all rows of one user together, whatever "
            "they are."
        )
    if unit == "client":
        return (
            "This is the worst case already: it holds for all that one client holds, whatever it "
            "is. An owner of several clients is protected less."
        )
    return (
        "This is the worst case already: it holds for one record, whatever it is. Somebody with "
        "several records is protected less."
    )


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


def _single(facts: dict[str, Any]) -> list[str]:
    """One teacher: the unit is an answer, and the worst case for a record stands beside it."""
    g, per = facts["guarantee"], "per answer"
    lines = [
        f"Unit of privacy: one {facts['unit']}; neighbouring worlds: {facts['relation']}."
        if facts["unit"] != "none"
        else "Unit of privacy: none.",
        *mechanism_lines(facts),
        f"Answers: at most {facts['answers_cap']:,} by the plan, {facts['answers_made']:,} made; "
        f"an image is asked at most {facts['asks_per_image']} time(s).",
    ]
    for d, e, w in zip(facts["deltas"], g["epsilon_at"], g["worst_case_epsilon_at"], strict=True):
        lines.append(
            f"At delta {d:.3g}: epsilon {show(e)} {per}; "
            f"epsilon {show(w)} for one record, user or client in the worst case "
            f"(all {facts['answers_cap']:,} answers change together)."
        )
    if g["mu"] is not None:
        lines.append(f"Gaussian DP: mu {g['mu']:.6g} {per}.")
    elif facts["release"]["kind"] == "pure":
        pure = facts["release"]["epsilon"] * facts["asks_per_image"]
        lines.append(f"Pure epsilon: {show(pure)} {per}, at delta 0.")
    lines += [
        "The epsilon per answer does not protect a record: one changed training record may change "
        "every answer of a single teacher. For records read the worst case.",
        f"Accountant: {facts['accountant']}.",
    ]
    if facts["earlier_runs"]:
        seeded = any(r["seeded_noise"] for r in facts["earlier_runs"])
        why = "; the noise of at least one of them can be predicted" * seeded
        lines.append(
            f"Earlier runs on the same teacher: {len(facts['earlier_runs'])}. An image that all of "
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
        f"Zero-concentrated DP: rho {g['rho']:.6g} for one {unit}.",
        whom_it_protects(unit),
        f"Accountant: {facts['accountant']}.",
    ]  # fmt: skip
    return [*lines, *_earlier_on_the_data(facts)]


def _earlier_on_the_data(facts: dict[str, Any]) -> list[str]:
    """All that the data set's ledger holds beside this run."""
    g, unit, earlier = facts["guarantee"], facts["unit"], facts["earlier_runs"]
    if not earlier:
        return ["Earlier runs on the same data: none in its ledger."]
    why = "" if g["composed_epsilon"] is not None or g["epsilon"] is None else (
        f"; the noise of at least one of them can be predicted or was not made for a {unit}"
    )  # fmt: skip
    same = sum(r.get("teacher") == facts["teacher"] for r in earlier)
    nothing = f", of which {same} on the same teacher add nothing" * bool(same)
    once = " (each training by DP-SGD counted once)" * any(
        r["release"]["kind"] == "dp_sgd" for r in earlier
    )
    relation = " under replace-one" * (facts["route"] == "inherited")
    return [
        f"Earlier runs on the same data: {len(earlier)}{nothing}. Together with this one they have "
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
        "The choice of hyper-parameters is not covered: if the teacher's were chosen on the "
        "private data, that choice is not in epsilon.",
        f"Accountant: {facts['accountant']}.",
        *_earlier_on_the_data(facts),
    ]


def _training_lines(t: dict[str, Any] | None) -> list[str]:
    if t is None:
        return [
            "Mechanism: none on the answers; the student has the guarantee that the teacher's own "
            "training by DP-SGD gave, by post-processing. It stands in the teacher's DP ledger."
        ]
    return [
        "Mechanism: none on the answers; the student has the guarantee that the teacher's own "
        "training by DP-SGD gave, by post-processing; noise: Gaussian on the sum of clipped "
        f"gradients, multiplier {t['noise_multiplier']:.6g}, in each of {t['steps']:,} batches "
        f"with a Poisson sampling rate of {t['sample_rate']:.6g} of {t['rows']:,} rows.",
        f"Sensitivity: L2 {t['max_grad_norm']:.6g} under add-or-remove-one (one clipped gradient "
        f"enters or leaves the sum), {2 * t['max_grad_norm']:.6g} under replace-one (one takes "
        "another's place).",
    ]


def _detail(m: dict[str, Any]) -> str:
    if m["mechanism"] == "gaussian":
        return f" on the teacher's {m['vector']}, {m['bound']} to {m['bound_norm']}"
    if m["mechanism"] == "noisy_votes":
        return f", the histogram of {m['voters']:,} votes"
    return f", {m['kind']}" if "kind" in m else ""


def _sensitivity(m: dict[str, Any]) -> str:
    return "by probabilities" if m["sensitivity"] is None else f"L2 {m['sensitivity']:.6g}"


def show(x: float | None) -> str:
    """An epsilon for people; None is infinite."""
    return "infinite" if x is None else f"{x:,.6g}" if x < 1e6 else f"{x:,.0f}"
