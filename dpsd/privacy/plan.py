"""The plan: mechanism, sensitivity, relation, noise and cap in one object.

No setting of one part can break another's guarantee. The noise is computed from the sensitivity,
epsilon, delta and the number of asks. It is never given.
"""

import math
from dataclasses import dataclass, replace

from dpsd.config import NAMED, Config, PublicFacts
from dpsd.errors import UserError
from dpsd.privacy import accounting
from dpsd.privacy.events import Release
from dpsd.privacy.inherited import DpTraining
from dpsd.privacy.mechanisms.base import Mechanism
from dpsd.privacy.mechanisms.choose import choose_mechanism, federated_mechanism
from dpsd.privacy.mechanisms.federated import server_mechanism
from dpsd.privacy.record import RunRecord, labels_run
from dpsd.privacy.units import FEDERATED_RELATIONS as FEDERATED
from dpsd.privacy.units import RELATIONS, scope_of

_LARGE_DELTA = 1e-3  # for one answer
_MOST_HELD_OUT = 1000


@dataclass(frozen=True)
class Plan:
    """What a run will release and guarantee.

    `epsilon` and `delta` are for the unit. For one answer they cover all `asks_per_image` asks of
    an image together; for one record, user or client, all answers together. `answers` is the cap
    on the whole run. With route `inherited` epsilon is the teacher's own, infinite until `inherit`
    sets it.
    """

    unit: str
    relation: str
    mechanism: Mechanism
    epsilon: float
    delta: float
    answers: int
    rounds: int
    queries_per_round: int
    asks_per_image: int
    explore: float
    facts: PublicFacts
    seeded_noise: bool
    route: str = "single"
    training: DpTraining | None = None
    units: int | None = None
    """M, the number of records, users or clients; None: unknown, or the unit is an answer."""
    allow_open: bool = False
    asked: str = ""
    """The teacher's UUID, once a run has one."""
    grouping: str = ""
    """Random id of the roster of users, or of the partition into clients."""

    def position(self, round: int) -> int:
        """Answers asked before a round."""
        return round * self.queries_per_round

    def queries(self, round: int) -> int:
        """Images asked in a round; the last round takes the rest of the answers."""
        last = round + 1 == self.rounds
        return self.answers - self.position(round) if last else self.queries_per_round

    @property
    def held_out(self) -> int:
        """How many answers the student is never trained on: the first of the last round.

        They are paid like all others. They measure the student where there are no test rows. They
        are the first because randomised response asks those with a uniform prior
        (`asking_prior`). Such answers do not lean towards the student's prediction.
        """
        return min(_MOST_HELD_OUT, self.queries_per_round // 10)

    def trained_on(self, round: int) -> slice:
        """The answers of one round that enter the bank, in a resumed run too."""
        return slice(self.held_out if round + 1 == self.rounds else 0, None)

    @property
    def private(self) -> bool:
        """Whether epsilon is finite and the noise cannot be predicted."""
        return math.isfinite(self.epsilon) and not self.seeded_noise

    @property
    def scope(self) -> str:
        """`per_answer`, or `total` where epsilon covers all answers together."""
        return scope_of(self.unit)

    @property
    def event(self) -> Release:
        """What the ledger holds: one answer, or the training that answers post-process."""
        return self.mechanism.event if self.training is None else self.training.event

    def record(self, run: str, started: str = "") -> RunRecord:
        """The run as its ledger holds it, before its first answer."""
        return RunRecord(
            run, self.event, self.answers, self.asks_per_image, self.seeded_noise, started,
            self.unit, None if self.training is None else self.training.teacher_uuid,
            route=self.route, mechanism=self.mechanism.name, allow_open=self.allow_open,
            asked=self.asked, grouping=self.grouping,
        )  # fmt: skip

    def records(self, run: str, started: str = "") -> list[RunRecord]:
        """The run as its ledger holds it, and what it releases beside its answers."""
        beside = [] if self.training is not None else self.mechanism.beside()
        return [self.record(run, started)] + [
            RunRecord(
                labels_run(run),
                event,
                cap,
                seeded_noise=self.seeded_noise,
                unit=self.unit,
                grouping=self.grouping,
            )
            for event, cap in beside
        ]

    def releases(self) -> list[tuple[Release, int]]:
        """All releases that may change together in the worst case, each with its cap."""
        if self.training is not None:
            return [(self.training.event, 1)]
        return [(self.mechanism.event, self.answers), *self.mechanism.beside()]

    def deltas(self) -> list[float]:
        """The deltas at which a statement gives epsilon: the configured, 1e-5, 1e-6, 1/M^1.1.

        M is the number of units. Deltas at or above 1/M flatter, and are left out. For one answer
        there is no M.
        """
        more = [1e-5, 1e-6]
        if self.units is not None:
            more = [d for d in (*more, self.units**-1.1) if d < 1 / self.units]
        return list(dict.fromkeys([self.delta, *more]))

    def unit_epsilon(self, delta: float) -> float:
        """Epsilon of the unit: one answer (all asks of one image), record, user or client."""
        if self.scope == "total":
            return self.worst_case_epsilon(delta)
        return accounting.compose_epsilon([(self.mechanism.event, self.asks_per_image)], delta)

    def worst_case_epsilon(self, delta: float) -> float:
        """Epsilon if one changed record changes all answers at once."""
        return accounting.compose_epsilon(self.releases(), delta)

    def _repr_html_(self) -> str:
        from dpsd.privacy.notebook import plan_html

        return plan_html(self)


def make_plan(config: Config) -> Plan:
    """The plan of a configuration. Reads no data.

    Raises:
        UserError: top_k is above the number of classes, or there are fewer than 2 classes.
    """
    facts = config.facts
    p = config.privacy
    if p.top_k is not None and p.top_k > facts.classes:
        raise UserError(
            f"privacy.top_k: {p.top_k} is above the number of classes; "
            f"accepted: up to {facts.classes}"
        )
    if facts.classes < 2:
        raise UserError(f"data.classes: {facts.classes}; accepted: from 2")
    queries = config.queries_per_round()
    unit = "none" if p.mechanism == "none" and p.route != "inherited" else p.unit
    units = number_of_units(config, unit)
    if unit != "none" and not p.allow_large_delta:
        check_delta("privacy.delta", p.delta, unit, units)
    federated = p.route == "federated"
    choose = federated_mechanism if federated else choose_mechanism
    return Plan(
        unit=unit,
        relation=(FEDERATED if federated else RELATIONS)[unit],
        mechanism=choose(config, facts.classes),
        epsilon=math.inf if p.epsilon is None else p.epsilon,
        delta=p.delta,
        answers=config.answers(),
        rounds=config.loop.rounds,
        queries_per_round=queries,
        asks_per_image=p.asks_per_image,
        explore=p.explore,
        facts=facts,
        seeded_noise=p.insecure_seeded_noise,
        route=p.route,
        units=units,
        allow_open=p.allow_open,
    )


def number_of_units(config: Config, unit: str) -> int | None:
    """M, the number of records, users or clients, from the configuration alone; None: unknown."""
    data = config.data
    if unit == "client":
        return config.federated.clients
    if unit not in ("record", "user"):
        return None
    named = NAMED.get(data.name) if unit == "record" and data.split is None else None
    if named is not None and data.units not in (None, named.rows):
        raise UserError(
            f"data.units: {data.units}; accepted with data.name {data.name}: {named.rows}, or null"
        )
    return data.units or (None if named is None else named.rows)


def check_delta(key: str, delta: float, unit: str, units: int | None) -> None:
    """Refuse a delta at which a mechanism may publish one unit whole.

    Args:
        key: of the configuration.
        delta: its value.
        unit: of privacy.
        units: M, their number, or None where it is unknown.

    Raises:
        UserError: delta is at or above 1/M; for one answer, at or above 0.001.
    """
    limit = _LARGE_DELTA if units is None else min(_LARGE_DELTA, 1 / units)
    if delta >= limit:
        why = "" if units is None else f" (1/M, M = {units:,} {unit}s)"
        raise UserError(
            f"{key}: {delta:g} for one {unit}; accepted: below {limit:.3g}{why}, or "
            "privacy.allow_large_delta: true"
        )


def inherit(plan: Plan, training: DpTraining) -> Plan:
    """The plan with the guarantee of the teacher's own training (route `inherited`)."""
    known = replace(
        plan, training=training, seeded_noise=plan.seeded_noise or training.seeded_noise,
        units=plan.units or training.rows,
    )  # fmt: skip
    return replace(known, epsilon=known.unit_epsilon(plan.delta))


def home_plan(plan: Plan) -> Plan:
    """The plan that a client's own oracle enforces."""
    return replace(plan, mechanism=server_mechanism(plan.mechanism).client)
