"""Facts on what a run will release, guarantee and cost, before any data are touched."""

import math
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from dpsd.config import NUMBERED, Config
from dpsd.config.public import public_photographs
from dpsd.data.rows import IN_MEMORY_BYTES, fits_in_memory, on_disk_line
from dpsd.device import pick_device, use_threads
from dpsd.generator.synthesizer import Synthesizer
from dpsd.planning.clients import enough_line
from dpsd.planning.priors import priors
from dpsd.planning.timing import (
    LOOP_OVERHEAD,
    activation_bytes,
    expected_seconds,
    peak_bytes,
)
from dpsd.privacy import accounting
from dpsd.privacy.budget import Budget
from dpsd.privacy.inherited import DP_LEDGER, read_dp_ledger
from dpsd.privacy.mechanisms.votes import NoisyVotes
from dpsd.privacy.near_duplicates import near_duplicates
from dpsd.privacy.plan import Plan, inherit, make_plan
from dpsd.privacy.units import FEDERATED_TRUST, TRUST
from dpsd.privacy.wording import (
    COVERED,
    not_covered,
)
from dpsd.teachers.folder import read_folder
from dpsd.transcription.session import (
    check_room,
    disk_bytes,
    expected_bytes,
    on_disk,
    window_of,
)

_DRAWN = 2000
_LEAST_DRAWN = 64
_DRAWN_VALUES = _DRAWN * 32 * 32 * 3


def describe(config: Config) -> dict[str, Any]:
    """The plan of a configuration as plain values; infinite figures are None.

    Raises:
        UserError: bad input, in one line.
    """
    use_threads(config.threads)
    plan = _known(config, make_plan(config))
    check_room(config, plan)
    seconds, activations = expected_seconds(config, plan), activation_bytes(config, plan.facts)
    device = pick_device(config.device)
    untimed = activations["untimed"] if device.type == "cpu" else 0
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
        "rounds": plan.rounds,
        "queries_per_round": plan.queries_per_round,
        "queries_in_last_round": plan.queries(plan.rounds - 1),
        "window": window_of(config, plan),
        "asks_per_image": plan.asks_per_image,
        "epsilon": _finite(plan.epsilon),
        "delta": plan.delta,
        "epsilon_at": [_epsilon_at(plan, d) for d in plan.deltas()],
        "declared_public": {
            "shape": list(plan.facts.shape),
            "classes": plan.facts.classes,
            "photographs": [p.file for p in public_photographs(config.generator)],
        },
        "trust": FEDERATED_TRUST[plan.unit] if plan.route == "federated" else TRUST,
        "clients": enough_line(plan.mechanism)
        if plan.unit == "client" and isinstance(plan.mechanism, NoisyVotes)
        else None,
        "covered": COVERED,
        "not_covered": not_covered(plan.route),
        "estimate": {
            "bytes": expected_bytes(config, plan) + peak_bytes() + untimed,
            "activation_bytes": activations["batch"],
            "images_at_once": activations["images"],
            "disk_bytes": disk_bytes(config, plan),
            "bank_on_disk": on_disk(config, plan),
            "seconds": sum(v for v in seconds.values() if v is not None) * LOOP_OVERHEAD,
            "seconds_by_part": seconds,
            "device": str(device),
            "threads": torch.get_num_threads(),
            "private_images": _where_images_lie(config),
        },
        "priors": priors(config),
        "near_duplicates": _expected_near_duplicates(config, plan),
    }


def _where_images_lie(config: Config) -> str | None:
    """Where the images of folders and shards will lie, by public facts alone; None elsewhere."""
    data = config.data
    if data.name not in NUMBERED:
        return None
    each, users = math.prod(config.facts.shape), data.user_ids is not None
    if data.units is None or users:
        return f"more than {IN_MEMORY_BYTES // each:,} private images stay on disk"
    if fits_in_memory(data.units * each):
        return f"{data.units:,} private images are held in memory"
    return on_disk_line(data.units, data.units * each)


def _expected_near_duplicates(config: Config, plan: Plan) -> dict[str, Any] | None:
    """The rate among images that the run's synthesizer draws now; None for other units.

    At most 2,000 images, fewer of large ones. No student is trained yet, so candidates are not
    ranked and there are no variants of earlier queries. Repeats that the oracle would refuse are
    dropped.
    """
    if plan.unit != "answer":
        return None
    generator = config.generator.model_copy(update={"select": 1})
    synthesizer = Synthesizer(
        config.model_copy(update={"generator": generator}), plan.facts, pick_device(config.device)
    )
    values = math.prod(plan.facts.shape)
    n = min(plan.answers, _DRAWN, max(_LEAST_DRAWN, _DRAWN_VALUES // values))
    images = synthesizer.sample(n, _Untrained(plan.facts.classes))
    images = images[Budget(plan, "", None).fresh(images)]
    return asdict(near_duplicates([images], sampled=n))


@dataclass(frozen=True)
class _Untrained:
    """A student that finds all classes alike."""

    classes: int

    def predict(self, images: Tensor) -> Tensor:
        return torch.full((len(images), self.classes), 1 / self.classes)


def _known(config: Config, plan: Plan) -> Plan:
    """The plan, with its inherited guarantee where the named DP ledger exists already."""
    path = config.teacher.path
    if plan.route != "inherited" or path is None or not (path / DP_LEDGER).exists():
        return plan
    return inherit(plan, read_dp_ledger(path, read_folder(path).uuid))


def _epsilon_at(plan: Plan, delta: float) -> dict[str, float | None]:
    """Epsilon at one delta, with its unit in the key; for an unread DP ledger only the delta."""
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


def _finite(x: float) -> float | None:
    return x if math.isfinite(x) else None
