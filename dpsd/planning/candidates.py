"""The four candidate routes: whether each is open to a user, and what it guarantees."""

from dataclasses import asdict, dataclass
from typing import Any, Literal

from dpsd.config import NUMBERED, Config, PublicFacts
from dpsd.errors import UserError
from dpsd.models.dp_networks import DP_MODELS
from dpsd.planning.votes import best_choice, search, share_rows, stand_ins
from dpsd.privacy import accounting
from dpsd.privacy.accounting import calibrate_votes
from dpsd.privacy.events import DpSgdRelease
from dpsd.privacy.inherited import DpTraining
from dpsd.privacy.plan import make_plan
from dpsd.privacy.units import RELATIONS
from dpsd.teachers.dp_sgd import plan_training

Unit = Literal["answer", "record", "user"]

MODEL = "scatter-linear"
AUGMENT = "affine"
"""Model and augmentation of the teachers in shard_figures.yaml and of proposed teachers."""
_BY_CLASS = (*NUMBERED, "att_faces")


@dataclass(frozen=True)
class Holdings:
    """What the user has, as far as the configuration says."""

    facts: PublicFacts
    data: bool
    own_teacher: bool
    rows: int | None
    users: int | None
    ledger: DpTraining | None


def single_route(config: Config, has: Holdings, unit: Unit) -> dict[str, Any]:
    """One teacher, noise at its answers. The worst case for a record stands beside the answer's."""
    plan = make_plan(config)
    opened = has.data or has.own_teacher
    why = "needs a checkpoint, or data to train one teacher on"
    if opened:
        why = "" if unit == "answer" else (
            f"answers only: one changed {unit} may change every answer of a single teacher"
        )  # fmt: skip
    at = plan.delta
    return {
        "route": "single", "open": opened, "why": why, "unit": "answer",
        "relation": RELATIONS["answer"], "delta": at, "answers": plan.answers,
        "epsilon": {"per_answer": plan.unit_epsilon(at),
                    "per_record_worst_case": plan.worst_case_epsilon(at)},
    }  # fmt: skip


def ensemble_route(config: Config, has: Holdings, unit: Unit, assume: str | None) -> dict[str, Any]:
    """Votes of teachers on disjoint shards: one record or user, all answers together."""
    p, k = config.privacy, has.facts.classes
    shown = "record" if unit == "answer" else unit
    out: dict[str, Any] = {
        "route": "ensemble", "open": False, "unit": shown, "relation": RELATIONS[shown],
        "delta": p.delta, "epsilon": {f"per_{shown}": p.epsilon},
    }  # fmt: skip
    if unit == "answer":
        return out | {"open": has.data, "why": "for records or users; see --unit record or user"}
    if not has.data:
        return out | {"why": f"needs the private data: without them no {unit}-level claim"}
    if config.data.name in _BY_CLASS and config.data.rows is None:
        return out | {"why": "data.rows: null, and rows are numbered by class; a claim for records "
                      "needs a manifest, made by `dpsd manifest`"}  # fmt: skip
    assert has.rows is not None and p.epsilon is not None
    stand_in = assume or ("mnist" if config.data.name in ("mnist", "digits") else "fashion_mnist")
    most = has.rows if unit == "record" or has.users is None else min(has.rows, has.users)
    choices = search(
        stand_ins()[stand_in], rows=has.rows, most=most, classes=k, epsilon=p.epsilon,
        delta=p.delta, also=config.teacher.shards,
    )  # fmt: skip
    if not choices:
        return out | {"why": f"{has.rows:,} records and {most:,} {unit}s are too few for 10 shards"}
    best = best_choice(choices)
    sigma, _ = calibrate_votes(p.epsilon, p.delta, best.answers)
    return out | {
        "open": True, "why": "", "stand_in": stand_in, "assumed_classes": k,
        "chosen": asdict(best) | {"sigma": sigma, "student": best.student},
        "shards": [asdict(c) | {"student": c.student} for c in choices],
        "vote_shares": share_rows(best.shards, sigma, k), "answers": best.answers,
    }  # fmt: skip


def inherited_route(config: Config, has: Holdings, unit: Unit) -> dict[str, Any]:
    """A teacher that is or was trained by DP-SGD: one record, any number of answers."""
    p = config.privacy
    out: dict[str, Any] = {
        "route": "inherited", "open": False, "unit": "record", "relation": RELATIONS["record"],
        "delta": p.delta, "epsilon": {"per_record": p.epsilon},
    }  # fmt: skip
    if unit != "record":
        return out | {"open": has.data or has.ledger is not None,
                      "why": "for one record; see --unit record"}  # fmt: skip
    if has.ledger is not None and has.ledger.seeded_noise:
        return out | {"why": "the noise of the teacher's training was seeded and can be predicted"}
    if has.ledger is not None:
        own = _both_relations(has.ledger.event, p.delta)
        over = own["per_record"] > (p.epsilon or 0) * (1 + 1e-9)
        why = (
            f"the teacher's DP ledger says epsilon {own['per_record']:.6g} for one record at delta "
            f"{p.delta:g}, above the {p.epsilon:g} asked"
        )
        return out | {"epsilon": own, "open": not over, "why": why if over else "",
                      "existing": True}  # fmt: skip
    if not has.data:
        return out | {"why": "needs the private data, or a teacher trained by DP-SGD with its "
                      "ledger beside it (teacher.path)"}  # fmt: skip
    if config.data.name in NUMBERED and config.data.rows is None:
        return out | {"why": f"data.rows: null; a record claim on data of {config.data.name} needs "
                      "a manifest of its rows, made by `dpsd manifest`"}  # fmt: skip
    assert has.rows is not None
    dp = config.teacher.dp.model_copy(update={"epsilon": p.epsilon, "delta": p.delta})
    try:
        recipe = plan_training(dp, has.rows)
    except UserError as e:
        return out | {"why": str(e)}
    event = DpSgdRelease(recipe.noise_multiplier, recipe.sample_rate, recipe.steps)
    model = config.teacher.model if config.teacher.model in DP_MODELS else MODEL
    return out | {
        "open": True, "why": "", "existing": False, "model": model, "training": asdict(recipe),
        "epsilon": {"per_record": p.epsilon, "per_record_add_or_remove_one":
                    accounting.compose_epsilon([(event, 1)], p.delta, "add_or_remove_one")},
    }  # fmt: skip


def _both_relations(event: DpSgdRelease, delta: float) -> dict[str, float]:
    return {
        "per_record": accounting.compose_epsilon([(event, 1)], delta, "replace_one"),
        "per_record_add_or_remove_one": accounting.compose_epsilon(
            [(event, 1)], delta, "add_or_remove_one"
        ),
    }


def federated_route() -> dict[str, Any]:
    """The federated route by name only: another command plans it."""
    return {
        "route": "federated", "open": False, "unit": "client, record or answer",
        "relation": "everything that one client holds, for unit client", "epsilon": None,
        "why": "needs clients that keep data and models; it comes with `dpsd federate`",
    }  # fmt: skip
