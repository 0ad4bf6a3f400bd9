"""What a run will release, guarantee and cost, before any data is touched: facts and text."""

import math
from dataclasses import asdict
from typing import Any

import torch

from dpsd.config import Config
from dpsd.console import show_epsilon
from dpsd.device import pick_device, use_threads
from dpsd.planning.clients import enough_line
from dpsd.planning.timing import _REST, _peak_bytes, expected_seconds
from dpsd.privacy import accounting
from dpsd.privacy.federated_wording import labels_lines
from dpsd.privacy.inherited import DP_LEDGER, read_dp_ledger
from dpsd.privacy.mechanisms.votes import NoisyVotes
from dpsd.privacy.plan import Plan, inherit, make_plan
from dpsd.privacy.units import FEDERATED_TRUST
from dpsd.privacy.wording import (
    ADD_OR_REMOVE,
    COVERED,
    TRUST,
    guarantee_line,
    mechanism_lines,
    not_covered,
    relations_line,
    whom_it_protects,
)
from dpsd.teachers.folder import read_folder
from dpsd.transcription.session import check_memory, expected_bytes


def describe(config: Config) -> dict[str, Any]:
    """The plan of a configuration as plain values; infinite figures are None.

    Raises:
        UserError: bad input, in one line.
    """
    use_threads(config.threads)
    plan = _known(config, make_plan(config))
    check_memory(config, plan)
    seconds = expected_seconds(config, plan)
    return {
        "data": config.data.name,
        "private": plan.private,
        "seeded_noise": plan.seeded_noise,
        "route": config.privacy.route,
        "unit": plan.unit,
        "relation": plan.relation,
        "scope": plan.scope,
        "mechanism": plan.mechanism.facts(),
        "training": None if plan.training is None else asdict(plan.training),
        "answers": plan.answers,
        "histograms": plan.histograms,
        "rounds": plan.rounds,
        "queries_per_round": plan.queries_per_round,
        "asks_per_image": plan.asks_per_image,
        "epsilon": _finite(plan.epsilon),
        "delta": plan.delta,
        "epsilon_at": [_epsilon_at(plan, d) for d in plan.deltas()],
        "declared_public": {"shape": list(plan.facts.shape), "classes": plan.facts.classes},
        "trust": FEDERATED_TRUST[plan.unit] if plan.route == "federated" else TRUST,
        "clients": enough_line(plan.mechanism)
        if plan.unit == "client" and isinstance(plan.mechanism, NoisyVotes)
        else None,
        "covered": COVERED,
        "not_covered": not_covered(plan.route),
        "estimate": {
            "bytes": expected_bytes(config, plan) + _peak_bytes(),
            "seconds": sum(v for v in seconds.values() if v is not None) * _REST,
            "seconds_by_part": seconds,
            "device": str(pick_device(config.device)),
            "threads": torch.get_num_threads(),
        },
    }


def _known(config: Config, plan: Plan) -> Plan:
    """The plan with an inherited guarantee, where a DP ledger is named and there already."""
    path = config.teacher.path
    if plan.route != "inherited" or path is None or not (path / DP_LEDGER).exists():
        return plan
    return inherit(plan, read_dp_ledger(path, read_folder(path).uuid))


def _epsilon_at(plan: Plan, delta: float) -> dict[str, float | None]:
    """Epsilon at one delta, with its unit in the key; of an unread DP ledger only the delta."""
    if plan.scope == "per_answer":
        return {
            "delta": delta,
            "per_answer": _finite(plan.unit_epsilon(delta)),
            "per_record_worst_case": _finite(plan.worst_case_epsilon(delta)),
        }
    if plan.route == "inherited" and plan.training is None:
        return {"delta": delta}
    figures = {"delta": delta, f"per_{plan.unit}": _finite(plan.unit_epsilon(delta))}
    if plan.training is not None:
        figures["per_record_add_or_remove_one"] = _finite(
            accounting.compose_epsilon(plan.releases(), delta, "add_or_remove_one")
        )
    return figures


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
    cap = f"; at most {facts['histograms']:,} histograms" if facts["histograms"] else ""
    lines += [
        f"Route: {facts['route']}. Unit of privacy: {_one(facts['unit'])}.",
        f"Neighbouring worlds: {facts['relation']}{beside}.",
        *(_single_lines(facts) if facts["scope"] == "per_answer" else mechanism_lines(facts)),
        *labels_lines(facts["mechanism"], facts["unit"]),
        f"Answers: {n:,} at most ({facts['rounds']} rounds of {facts['queries_per_round']:,}{cap});"
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
    e, w = show_epsilon(row["per_answer"]), show_epsilon(row["per_record_worst_case"])
    return (
        f"At delta {row['delta']:.3g}: epsilon {e} per answer; epsilon {w} for one record, "
        f"user or client in the worst case (all {n:,} answers change together)."
    )


def _ending(facts: dict[str, Any], shape: str) -> list[str]:
    cost, classes = facts["estimate"], facts["declared_public"]["classes"]
    parts = [f"{name} {'not timed' if s is None else f'{s:.0f} s'}"
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
        earlier,
        f"Declared public: images of {shape}, {classes} classes.",
        f"Trust: {facts['trust']}.",
        f"Covered: {facts['covered']}.",
        f"Not covered: {facts['not_covered']}.",
        "",
        f"Memory, estimated: {cost['bytes'] / 2**30:.1f} GiB at the peak.",
        f"Time, estimated: {cost['seconds']:.0f} s on {cost['device']} with {cost['threads']} "
        f"thread(s) ({', '.join(parts)}), extrapolated from a few synthetic batches; "
        "training a missing teacher comes on top.",
    ]


def _one(unit: str) -> str:
    return "none" if unit == "none" else f"one {unit}"


def _finite(x: float) -> float | None:
    return x if math.isfinite(x) else None
