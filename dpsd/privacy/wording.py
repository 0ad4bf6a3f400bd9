"""The sentences that plan and statement share, and what is covered.

Every sentence that holds an epsilon names its unit. Facts come from `dpsd.privacy.statement`.
"""

from typing import Any

from dpsd.console import show_epsilon as show

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


def not_covered(route: str) -> str:
    """What the guarantee of a route does not cover."""
    return _NOT_COVERED + _LEFT_OUT[route]


def mechanism_lines(facts: dict[str, Any]) -> list[str]:
    """Mechanism, noise, sensitivity and its derivation, for plan and statement."""
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
