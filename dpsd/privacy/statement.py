"""The facts of a statement: what is guaranteed, for which unit and relation, and what is not."""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from dpsd.errors import UserError
from dpsd.privacy import accounting
from dpsd.privacy.events import (
    OpenRelease,
    Relation,
    Release,
    event_facts,
    event_from_facts,
    total_mu,
)
from dpsd.privacy.ledger import RunRecord, labels_run
from dpsd.privacy.plan import Plan
from dpsd.privacy.units import TRUST, covers
from dpsd.privacy.wording import COVERED, not_covered

SCHEMA_VERSION = 1
_Releases = list[tuple[Release, int]]
_OPEN: tuple[Release, int] = (OpenRelease(), 1)


def statement_facts(
    plan: Plan,
    run: str,
    teacher: str,
    runs: Sequence[RunRecord],
    public: dict[str, Any],
    federation: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """All facts that are needed to recompute the guarantee, as plain values.

    Args:
        plan: of this run.
        run: this run's id.
        teacher: the teacher's UUID.
        runs: all runs in the teacher's ledger, this one included. All others compose with this one.
        public: what was declared public (shape, classes, source of images).
        federation: what `dpsd.privacy.federated_wording` adds where clients answered.

    Raises:
        UserError: the ledger does not hold the run, or holds it as another release than its
            teacher's; or the route is inherited and the teacher's training was not read
            (`dpsd.privacy.inherited`).
    """
    if plan.route == "inherited" and plan.training is None:
        raise UserError("DP ledger: not read, so that no guarantee is inherited")
    mine = [r for r in runs if r.run == run]
    if not mine:
        raise UserError(f"ledger: holds no run {run}, so nothing can be claimed for it")
    # All other runs count: an older one may still go on, and a newer one may have ended.
    record, earlier = mine[0], [r for r in runs if r.run not in (run, labels_run(run))]
    if plan.training is not None and record.event != plan.training.event:
        raise UserError(f"ledger: run {run} was entered as another release than its teacher's")
    facts: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "run": run,
        "teacher": teacher,
        "released": "student, generator, synthetic data and public logs",
        "private": plan.private,
        "unit": plan.unit,
        "relation": plan.relation,
        "route": plan.route,
        "scope": plan.scope,
        "release": event_facts(record.event),
        "mechanism": plan.mechanism.facts(),
        "asks_per_image": record.asks_per_image,
        "answers_cap": record.cap,
        "answers_made": record.answers,
        "training": None if plan.training is None else asdict(plan.training),
        "seeded_noise": record.seeded_noise or plan.seeded_noise,
        "delta": plan.delta,
        "deltas": plan.deltas(),
        "earlier_runs": [_run_facts(r) for r in earlier],
        "accountant": _accountant(plan),
        "declared_public": public,
        "trust": TRUST,
        "covered": COVERED,
        "not_covered": not_covered(plan.route),
    }
    facts |= federation or {}
    return facts | {"guarantee": guarantee(facts)}


def guarantee(facts: dict[str, Any]) -> dict[str, Any]:
    """The figures that follow from the facts. Infinite ones are None.

    Returns:
        `epsilon` of the unit at the stated delta: per answer or for all answers together, as
        `scope` says. `epsilon_at` and `worst_case_epsilon_at` hold one figure for each delta.
        `composed_epsilon` composes all earlier runs on the teacher (for records and users: on the
        data), whatever images the runs chose. `mu` is of mu-GDP, or None. Votes also have `rho` of
        zero-concentrated DP. For inherited guarantees epsilon is replace-one's;
        `add_or_remove_epsilon` and its `_at` stand beside it.
    """
    delta = float(facts["delta"])
    once, everything, others, composed_all = _releases(facts)

    def one(releases: _Releases, d: float, relation: Relation = "replace_one") -> Any:
        return _finite(accounting.compose_epsilon(releases, d, relation))

    def at(releases: _Releases, relation: Relation = "replace_one") -> Any:
        return [one(releases, float(d), relation) for d in facts["deltas"]]

    figures = {
        "epsilon": one(once, delta),
        "epsilon_at": at(once),
        "mu": total_mu(once) or None,
        "worst_case_epsilon": one(everything, delta),
        "worst_case_epsilon_at": at(everything),
        "composed_epsilon": one(once + others, delta),
        "composed_worst_case_epsilon": one(composed_all, delta),
    }
    if facts["release"]["kind"] == "votes":
        figures["rho"] = sum(r.rho * n for r, n in everything)
    if facts["route"] == "inherited":
        figures["add_or_remove_epsilon"] = one(once, delta, "add_or_remove_one")
        figures["add_or_remove_epsilon_at"] = at(once, "add_or_remove_one")
    return figures


def _releases(facts: dict[str, Any]) -> tuple[_Releases, _Releases, _Releases, _Releases]:
    """Releases of the unit, of the whole run, of earlier runs' units, and of all runs whole."""
    everything = _whole(facts)
    if facts["scope"] == "total":
        others: _Releases = []
        counted = [_training_of(facts)]
        for r in facts["earlier_runs"]:
            if (training := _training_of(r)) is not None and training in counted:
                continue  # its answers are post-processing of what is counted
            counted.append(training)
            fits = covers(r.get("unit"), facts["unit"]) and not r["seeded_noise"]
            others += _whole(r) if fits else [_OPEN]
        return everything, everything, others, everything + others
    once: _Releases = [(event_from_facts(facts["release"]), int(facts["asks_per_image"]))]
    earlier: _Releases = []
    whole = list(everything)
    for r in facts["earlier_runs"]:
        seeded = bool(r["seeded_noise"])  # whoever knows the seed can subtract the noise
        whole += [_OPEN] if seeded else _whole(r)
        asked = event_from_facts(r["release"]), int(r["asks_per_image"])
        earlier.append(_OPEN if seeded or _training_of(r) else asked)
    return once, everything, earlier, whole


def _training_of(run: dict[str, Any]) -> tuple[Any, Any] | None:
    """Teacher and release of a run on a training by DP-SGD; None for any other run."""
    trained = run["release"]["kind"] == "dp_sgd"
    return (run.get("teacher"), run["release"]) if trained else None


def _whole(run: dict[str, Any]) -> _Releases:
    """All releases of a run up to its caps."""
    event, cap = event_from_facts(run["release"]), int(run["answers_cap"])
    if event.kind == "dp_sgd":
        return [(event, 1)]  # whatever is asked of its teacher is post-processing
    if run.get("labels") is not None:
        return [(event, cap), (event_from_facts(run["labels"]), 1)]
    return [(event, cap)]


def _accountant(plan: Plan) -> str:
    own = f"dpsd {version('dpsd')}"
    if plan.scope == "total":
        return (
            f"{own}: privacy-loss distributions of dp-accounting {version('dp-accounting')}, "
            "connect-the-dots"
        )
    return f"{own}: exact Gaussian and optimal pure-epsilon formulas"


def file_hashes(release: Path) -> dict[str, str]:
    """SHA-256 of every released file but statement.json itself."""
    return {
        str(p.relative_to(release)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(release.rglob("*"))
        if p.is_file() and p != release / "statement.json"
    }


def _run_facts(r: RunRecord) -> dict[str, Any]:
    return {"run": r.run, "release": event_facts(r.event), "answers_cap": r.cap,
            "answers_made": r.answers, "asks_per_image": r.asks_per_image,
            "seeded_noise": r.seeded_noise, "started": r.started, "unit": r.unit,
            "teacher": r.teacher}  # fmt: skip


def _finite(x: float) -> float | None:
    return x if math.isfinite(x) else None
