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
    "single": "the teacher itself; other models trained on the same data, and other releases of "
    "this teacher that are not in its ledger",
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


def accountant(scope: str, versions: dict[str, str]) -> str:
    """Which software computed epsilon, and how."""
    own = f"dpsd {versions['dpsd']}"
    if scope == "total":
        return (
            f"{own}: privacy-loss distributions of dp-accounting {versions['dp-accounting']}, "
            "connect-the-dots"
        )
    return f"{own}: exact Gaussian and optimal pure-epsilon formulas"


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


def parameters_line(facts: dict[str, Any]) -> list[str]:
    """Mu, pure epsilon or rho: what the mechanism itself guarantees, before any delta."""
    g, release = facts["guarantee"], facts["release"]
    if g["mu"] is not None:
        return [f"Gaussian DP: mu {g['mu']:.6g} per answer."]
    if release["kind"] == "pure":
        pure = release["epsilon"] * facts["asks_per_image"]
        return [f"Pure epsilon: {show(pure)} per answer, at delta 0."]
    if release["kind"] == "votes":
        return [f"Zero-concentrated DP: rho {g['rho']:.6g} for one {facts['unit']}."]
    return []


def groups_line(facts: dict[str, Any]) -> list[str]:
    """Epsilon for k records of one person, or k clients of one owner."""
    g, unit = facts["guarantee"], facts["unit"]
    if "groups" not in g:
        return []
    who = "records of one person" if unit == "record" else "clients of one owner"

    def told(groups: list[dict[str, Any]], relation: str) -> str:
        each = "; ".join(f"{x['k']}: epsilon {show(x['epsilon'])} ({x['bound']})" for x in groups)
        runs = " and all earlier runs" * bool(facts["earlier_runs"])
        return f"For several {who}{runs}, at delta {facts['delta']:.3g}{relation}: {each}."

    if "add_or_remove_groups" not in g:
        return [told(g["groups"], "")]
    return [told(g["groups"], " under replace-one"),
            told(g["add_or_remove_groups"], " under add-or-remove-one")]  # fmt: skip


def near_duplicates_line(facts: dict[str, Any]) -> list[str]:
    """How many queries were close to earlier ones; for the unit answer alone."""
    near = facts["near_duplicates"]
    if near is None or facts["scope"] == "total" or near["share"] is None:
        return []
    kept = "" if near["compared"] >= facts["answers_made"] else " that were kept, the newest"
    return [
        f"Near-duplicates: {100 * near['share']:.2f} % of {near['sampled']:,} sampled queries lie "
        f"within a root mean square of {near['distance']:g} of 255 grey levels (8 x 8 averages) of "
        f"an earlier one among {near['compared']:,}{kept}; each is an entry of its own, and the "
        "epsilon per answer of an entry does not cover what answers to its look-alikes say."
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
