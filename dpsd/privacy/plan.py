"""The plan: mechanism, sensitivity, relation, noise and cap in one object.

No setting of one part can break another's guarantee. The noise is computed from the sensitivity,
epsilon, delta and the number of asks. It is never given.
"""

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from dpsd.config import Config, PublicFacts
from dpsd.errors import UserError
from dpsd.privacy import accounting
from dpsd.privacy.events import Release
from dpsd.privacy.inherited import DpTraining
from dpsd.privacy.ledger import RunRecord
from dpsd.privacy.mechanisms.base import Mechanism
from dpsd.privacy.mechanisms.choose import choose_mechanism, federated_mechanism
from dpsd.privacy.mechanisms.federated import server_mechanism
from dpsd.privacy.units import FEDERATED_RELATIONS as FEDERATED
from dpsd.privacy.units import RELATIONS, scope_of

if TYPE_CHECKING:
    from dpsd.config import Config

    pass

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
        )  # fmt: skip

    def releases(self) -> list[tuple[Release, int]]:
        """All releases that may change together in the worst case, each with its cap."""
        if self.training is not None:
            return [(self.training.event, 1)]
        return [(self.mechanism.event, self.answers), *self.mechanism.beside()]

    def deltas(self) -> list[float]:
        """The deltas at which a statement gives epsilon: 1e-5, 1e-6, 1/N^1.1, the configured.

        N is the number of answers, or the number of rows where the guarantee is inherited.
        """
        n = self.answers if self.training is None else self.training.rows
        return sorted({1e-5, 1e-6, max(2, n) ** -1.1, self.delta}, reverse=True)

    def unit_epsilon(self, delta: float) -> float:
        """Epsilon of the unit: one answer (all asks of one image), record, user or client."""
        if self.scope == "total":
            return self.worst_case_epsilon(delta)
        return accounting.compose_epsilon([(self.mechanism.event, self.asks_per_image)], delta)

    def worst_case_epsilon(self, delta: float) -> float:
        """Epsilon if one changed record changes all answers at once."""
        return accounting.compose_epsilon(self.releases(), delta)


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
    )


def inherit(plan: Plan, training: DpTraining) -> Plan:
    """The plan with the guarantee of the teacher's own training (route `inherited`)."""
    known = replace(
        plan, training=training, seeded_noise=plan.seeded_noise or training.seeded_noise
    )
    return replace(known, epsilon=known.unit_epsilon(plan.delta))


def home_plan(plan: Plan) -> Plan:
    """The plan that a client's own oracle enforces."""
    return replace(plan, mechanism=server_mechanism(plan.mechanism).client)
