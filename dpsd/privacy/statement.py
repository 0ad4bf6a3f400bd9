"""The facts of a statement: what is guaranteed, for which unit and relation, and what is not.

Most follow from the configuration alone (`plan_facts`), so that `dpsd verify` can rebuild them. The
others say what was done (`Made`). The figures follow from both (`guarantee`).
"""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from dpsd.config import Config, quorum
from dpsd.config.public import SHIPPED_PHOTOGRAPHS, drawn_shares, public_photographs
from dpsd.config.sections import GeneratorConfig
from dpsd.data.identity import dataset_name
from dpsd.errors import UserError
from dpsd.privacy import accounting
from dpsd.privacy.allowance import Allowance
from dpsd.privacy.chain import Head
from dpsd.privacy.composition import OPEN, Releases, together, training_of, whole
from dpsd.privacy.events import Relation, event_facts, event_from_facts, total_mu
from dpsd.privacy.groups import group_epsilon
from dpsd.privacy.plan import Plan
from dpsd.privacy.record import RunRecord, labels_run, record_from_facts
from dpsd.privacy.tradeoff import highest_tpr
from dpsd.privacy.units import FEDERATED_TRUST, TEST_RECORD, TRUST
from dpsd.privacy.wording import COVERED, accountant, not_covered

SCHEMA_VERSION = 2
FALSE_POSITIVES = 0.01
"""The rate at which the highest true-positive rate is stated."""
GROUPS = (2, 5, 10)
"""Numbers of records of one person, or clients of one owner, for which epsilon is stated."""
_DAY = 10  # characters of an ISO date: seconds would tell how long private computation took
UNSEALED = ("statement.json", "statement.sig")
"""Files of a release whose hashes are not in the statement."""


@dataclass(frozen=True)
class Made:
    """What a run did: no configuration says it, and the ledger and the signature vouch for it.

    Attributes:
        run: its id.
        teacher: its UUID.
        ledger: UUID of the owner of the ledger that the run was charged to.
        head: of that ledger, when the run had ended.
        runs: all runs in that ledger, this one included. All others compose with this one.
        allowances: all budgets in that ledger, oldest first.
        finished: when, as text.
        other_runs: on the same data set, in its ledger and not in the run's own: an epsilon per
            answer of one teacher says nothing of what other teachers gave.
        near_duplicates: share of queries close to earlier ones, as
            `dpsd.privacy.near_duplicates` says; None where it was not measured.
        federation: `fewest` (the least number of clients that answered in a round) and `answered`
            (by node, what it gave); None where there are no clients.
    """

    run: str
    teacher: str
    ledger: str
    head: Head
    runs: Sequence[RunRecord]
    allowances: Sequence[Allowance] = ()
    finished: str = ""
    other_runs: int = 0
    near_duplicates: dict[str, Any] | None = None
    federation: dict[str, Any] | None = field(default=None)


MADE_KEYS = (
    "run", "teacher", "grouping", "answers_made", "started", "finished", "earlier_runs",
    "other_runs", "budgets", "ledger", "near_duplicates",
)  # fmt: skip
"""Facts that follow from no configuration. `verify --ledger` compares most of them."""


def statement_facts(config: Config, plan: Plan, made: Made) -> dict[str, Any]:
    """All facts that are needed to recompute the guarantee, as plain values.

    Args:
        config: of the run, as it is released.
        plan: of the run.
        made: what the run did.

    Raises:
        UserError: the ledger does not hold the run, or holds it as another release than its
            teacher's; or the route is inherited and the teacher's training was not read
            (`dpsd.privacy.inherited`).
    """
    if plan.route == "inherited" and plan.training is None:
        raise UserError("DP ledger: not read, so that no guarantee is inherited")
    mine = next((r for r in made.runs if r.run == made.run), None)
    if mine is None:
        raise UserError(f"ledger: holds no run {made.run}, so nothing can be claimed for it")
    if differences := plan.record(made.run).differences(mine):
        raise UserError(
            f"ledger: run {made.run} was entered with another plan: {'; '.join(differences)}"
        )
    # All other runs count: an older one may still go on, and a newer one may have ended.
    earlier = [r for r in made.runs if r.run not in (made.run, labels_run(made.run))]
    earlier = [r for r in earlier if r.unit != TEST_RECORD]
    facts = plan_facts(config, plan, _versions()) | {
        "run": made.run,
        "teacher": made.teacher,
        "grouping": mine.grouping,
        "answers_made": mine.answers,
        "started": mine.started[:_DAY],
        "finished": made.finished[:_DAY],
        "earlier_runs": [by_day(r) for r in earlier],
        "other_runs": made.other_runs,
        "budgets": [asdict(a) for a in made.allowances],
        "ledger": {"owner": made.ledger} | asdict(made.head),
        "near_duplicates": made.near_duplicates,
    }
    if made.federation is not None:
        facts["federation"] |= made.federation
    return facts | {"guarantee": guarantee(facts)}


def by_day(run: RunRecord) -> dict[str, Any]:
    """A run of a ledger as a statement lists it: with the day on which it began."""
    return run.facts() | {"started": run.started[:_DAY]}


def plan_facts(config: Config, plan: Plan, versions: dict[str, str]) -> dict[str, Any]:
    """What follows from the configuration (for route inherited: and from the training) alone."""
    facts: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "released": "student, generator, synthetic data and public logs",
        "private": plan.private,
        "unit": plan.unit,
        "relation": plan.relation,
        "route": plan.route,
        "scope": plan.scope,
        "release": event_facts(plan.event),
        "mechanism": plan.mechanism.facts(),
        "asks_per_image": plan.asks_per_image,
        "answers_cap": plan.answers,
        "training": None if plan.training is None else asdict(plan.training),
        "seeded_noise": plan.seeded_noise,
        "delta": plan.delta,
        "deltas": plan.deltas(),
        "units": plan.units,
        "allow_open": plan.allow_open,
        "dataset": dataset_name(config),
        "owner": config.owner,
        "retention": config.retention,
        "versions": versions,
        "accountant": accountant(plan.scope, versions),
        "declared_public": declared_public(config),
        "trust": TRUST,
        "covered": COVERED,
        "not_covered": not_covered(plan.route),
    }
    if plan.route == "federated":
        f = config.federated
        labels = next((event for event, _ in plan.mechanism.beside()), None)
        facts |= {
            "trust": FEDERATED_TRUST[plan.unit],
            "labels": None if labels is None else event_facts(labels),
            "federation": {
                "clients": f.clients,
                "rounds": plan.rounds,
                "partition": f.partition,
                "quorum": quorum(config),
                "aggregate": f.aggregate,
            },
        }
    return facts


def declared_public(config: Config) -> dict[str, Any]:
    """What the statement lists as public knowledge."""
    g, facts, normalize = config.generator, config.facts, config.teacher.normalize
    photographs = public_photographs(g)
    listed: dict[str, Any] = {
        "image_shape": list(facts.shape),
        "classes": facts.classes,
        "pixel_range": list(facts.pixel_range),
        "query_images": _query_images(g),
    }
    if g.kind == "images" and g.source_sha256 is not None:
        of, digest = g.source_sha256.split(":")
        listed["query_folder"] = {"sha256": digest, "of": f"sorted file names and {of}"}
    if photographs:
        listed["photographs"] = [p.model_dump() for p in photographs]
    if "scatter-public" in (config.teacher.model, config.student.model):
        listed["feature_photographs"] = [p.model_dump() for p in SHIPPED_PHOTOGRAPHS]
    if normalize is not None and normalize.public:
        listed["teacher_normalisation"] = {
            "mean": list(normalize.mean), "std": list(normalize.std),
        }  # fmt: skip
    return listed


def _query_images(g: GeneratorConfig) -> str:
    """The sources that images are drawn from, in words."""
    if g.kind == "images":
        return f"declared public by the user: {g.source}"
    drawn = sorted(drawn_shares(g))
    families = [name for name in drawn if name not in ("photographs", "adversarial")]
    parts = [
        *(["crops of the photographs listed"] if "photographs" in drawn else []),
        *([f"procedural images ({', '.join(families)})"] if families else []),
        *([_generator(g)] if "adversarial" in drawn else []),
    ]
    return ", and ".join(parts)


def _generator(g: GeneratorConfig) -> str:
    if g.untrained == 1:
        return "images of untrained networks"
    beside = " and of untrained networks" if g.untrained > 0 else ""
    return f"images of a generator that learns from the student{beside}"


def guarantee(facts: dict[str, Any]) -> dict[str, Any]:
    """The figures that follow from the facts. Infinite ones are None.

    Returns:
        `epsilon` of the unit at the stated delta: per answer or for all answers together, as
        `scope` says. `epsilon_at` and `worst_case_epsilon_at` hold one figure for each delta.
        `composed_epsilon` composes all earlier runs on the teacher (for records and users: on the
        data), whatever images the runs chose. `mu` is of mu-GDP, or None. Votes also have `rho` of
        zero-concentrated DP. `highest_tpr` is the true-positive rate that no membership test
        exceeds at 1 % false positives, for one unit and all runs together; `record_highest_tpr` the
        same for one record in the worst case, 1 where other teachers of the data set have answered
        too. `groups` has epsilon for k records of one person (k clients of one owner) and all runs
        together. For inherited guarantees epsilon is replace-one's; `add_or_remove_epsilon`, its
        `_at` and `add_or_remove_groups` stand beside it.
    """
    delta = float(facts["delta"])
    once, everything, others, composed_all = stated_releases(facts)

    def one(releases: Releases, d: float, relation: Relation = "replace_one") -> Any:
        return _finite(accounting.compose_epsilon(releases, d, relation))

    def at(releases: Releases, relation: Relation = "replace_one") -> Any:
        return [one(releases, float(d), relation) for d in facts["deltas"]]

    def groups(relation: Relation) -> list[dict[str, Any]]:
        found = [(k, group_epsilon(everything + others, k, delta, relation)) for k in GROUPS]
        return [{"k": k, "epsilon": _finite(g.epsilon), "bound": g.bound} for k, g in found]

    private = bool(facts["private"])
    bounded = private and (facts["scope"] == "total" or not facts["other_runs"])
    figures = {
        "epsilon": one(once, delta),
        "epsilon_at": at(once),
        "mu": total_mu(once) or None,
        "worst_case_epsilon": one(everything, delta),
        "worst_case_epsilon_at": at(everything),
        "composed_epsilon": one(once + others, delta),
        "composed_worst_case_epsilon": one(composed_all, delta),
        "highest_tpr": highest_tpr(once + others, FALSE_POSITIVES) if private else 1.0,
        "record_highest_tpr": highest_tpr(composed_all, FALSE_POSITIVES) if bounded else 1.0,
    }
    if facts["release"]["kind"] == "votes":
        figures["rho"] = sum(r.rho * n for r, n in everything)
    if facts["scope"] == "total" and facts["unit"] in ("record", "client"):
        figures["groups"] = groups("replace_one")
    if facts["route"] == "inherited":
        figures["add_or_remove_epsilon"] = one(once, delta, "add_or_remove_one")
        figures["add_or_remove_epsilon_at"] = at(once, "add_or_remove_one")
        figures["add_or_remove_groups"] = groups("add_or_remove_one")
    return figures


def stated_releases(facts: dict[str, Any]) -> tuple[Releases, Releases, Releases, Releases]:
    """Releases of the unit, of the whole run, of earlier runs' units, and of all runs whole."""
    mine = RunRecord(
        facts["run"], event_from_facts(facts["release"]), int(facts["answers_cap"]),
        int(facts["asks_per_image"]), unit=facts["unit"],
        teacher=None if facts["training"] is None else facts["training"]["teacher_uuid"],
        grouping=facts["grouping"],
    )  # fmt: skip
    earlier = [record_from_facts(r) for r in facts["earlier_runs"]]
    everything = [whole(mine)]
    if facts.get("labels") is not None:
        everything.append((event_from_facts(facts["labels"]), 1))
    if facts["scope"] == "total":
        # What this teacher's training gave is counted; answers are post-processing of it.
        rest = [r for r in earlier if training_of(r) is None or training_of(r) != training_of(mine)]
        others = together(rest, facts["unit"], facts["grouping"])
        return everything, everything, others, everything + others
    once: Releases = [(mine.event, mine.asks_per_image)]
    units: Releases = []
    everyone = list(everything)
    for r in earlier:  # whoever knows a seed can subtract the noise
        everyone.append(OPEN if r.seeded_noise else whole(r))
        open_ = r.seeded_noise or training_of(r) is not None
        units.append(OPEN if open_ else (r.event, r.asks_per_image))
    return once, everything, units, everyone


def file_hashes(release: Path) -> dict[str, str]:
    """SHA-256 of every released file but the statement's own facts and their signature."""
    files = {}
    for p in sorted(release.rglob("*")):
        name = str(p.relative_to(release))
        if p.is_symlink():
            raise UserError(f"{p}: is a link; accepted in a release: files and folders")
        if p.is_file() and name not in UNSEALED:
            files[name] = hashlib.sha256(p.read_bytes()).hexdigest()
    return files


def _versions() -> dict[str, str]:
    return {name: version(name) for name in ("dpsd", "dp-accounting")}


def _finite(x: float) -> float | None:
    return x if math.isfinite(x) else None
