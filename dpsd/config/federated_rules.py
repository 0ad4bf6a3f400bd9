"""Which units, mechanisms and settings go together where clients answer."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dpsd.config.config import Config

_MECHANISMS = {
    "answer": ("gaussian", "randomized_response", "none"),
    "record": ("noisy_votes",),
    "client": ("noisy_votes",),
    "none": ("none",),
}
_AGGREGATES = {
    "answer": ("plain", "confidence", "learned"),
    "record": ("plain", "confidence", "learned", "labels"),
    "client": ("plain",),
    "none": ("plain", "confidence", "labels", "logits"),
}


def check_federated(config: "Config") -> None:
    """Refuse what has no guarantee, or none that was asked for.

    Raises:
        ValueError: one line with field, value and what is accepted.
    """
    p, f = config.privacy, config.federated
    mechanisms = _MECHANISMS.get(p.unit)
    if mechanisms is None:
        raise ValueError(
            f"privacy.unit: {p.unit} with route federated; accepted: {', '.join(_MECHANISMS)}"
        )
    if p.mechanism not in mechanisms:
        raise ValueError(
            f"privacy.mechanism: {p.mechanism} with route federated and unit {p.unit}; "
            f"accepted: {', '.join(mechanisms)}"
        )
    unit = "none" if p.mechanism == "none" else p.unit
    if f.aggregate not in _AGGREGATES[unit]:
        why = (
            "; a label histogram is a release about records, which unit answer does not cover"
            if f.aggregate == "labels" and unit == "answer"
            else ""
        )
        raise ValueError(
            f"federated.aggregate: {f.aggregate} with unit {unit}; "
            f"accepted: {', '.join(_AGGREGATES[unit])}{why}"
        )
    if p.mechanism == "randomized_response" and p.ask == "graded":
        raise ValueError(
            "privacy.ask: graded with route federated; accepted: label, group, whose answers from "
            "several clients have a likelihood together"
        )
    _check_numbers(config, unit)


def _check_numbers(config: "Config", unit: str) -> None:
    t, f = config.teacher, config.federated
    if f.quorum is not None and f.quorum > f.clients:
        raise ValueError(
            f"federated.quorum: {f.quorum} is more than there are clients; "
            f"accepted: 1 to federated.clients ({f.clients})"
        )
    if f.nodes is not None and (unit != "client" or f.nodes > f.clients):
        raise ValueError(
            f"federated.nodes: {f.nodes} with unit {unit} and {f.clients} clients; accepted: null, "
            "or with unit client a number up to federated.clients"
        )
    if (unit == "record") != (t.shards is not None):
        raise ValueError(
            f"teacher.shards: {t.shards} with route federated and unit {unit}; accepted: the "
            "number of each client's teachers with unit record, else null"
        )
    if t.dp.epsilon is not None or t.path is not None:
        name = "path" if t.path is not None else "dp.epsilon"
        raise ValueError(f"teacher.{name}: not read with route federated; accepted: null")
    if f.partition == "users" and config.data.user_ids is None:
        raise ValueError("data.user_ids: null; federated.partition users needs a file of user ids")
    if f.partition == "own" and f.runtime != "deployment":
        raise ValueError(
            f"federated.partition: own with runtime {f.runtime}; accepted with deployment alone"
        )
