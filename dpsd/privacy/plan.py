"""One object that holds mechanism, sensitivity, relation, noise and cap together.

No part of it can be configured into breaking another's guarantee: the noise is computed from the
sensitivity, epsilon, delta and the number of asks, never given.
"""

import math
from dataclasses import dataclass, replace

from dpsd.config import Config
from dpsd.data import PublicFacts, public_facts
from dpsd.errors import UserError
from dpsd.federated.plan import RELATIONS as FEDERATED
from dpsd.federated.plan import Combined, federated_mechanism
from dpsd.generator.bank import bank_bytes
from dpsd.privacy import accounting
from dpsd.privacy.distributions import calibrate_votes
from dpsd.privacy.gaussian import Gaussian
from dpsd.privacy.graded_response import GradedResponse, least_epsilon
from dpsd.privacy.group_response import GroupResponse
from dpsd.privacy.inherited import DpTraining
from dpsd.privacy.mechanisms import Mechanism, NoMechanism
from dpsd.privacy.randomized_response import RandomizedResponse
from dpsd.privacy.votes import NoisyVotes

RELATION = (
    "two teachers that agree on every image but one, where an image is the exact uint8 tensor that "
    "reaches the teacher"
)
RELATIONS = {
    "answer": RELATION,
    "none": RELATION,
    "record": "two data sets of the same size that differ in the content of one row (replace-one)",
    "user": "two data sets over the same public roster of users, where the rows of one user are "
    "replaced by any number of other rows, also none",
}

_MOST_HELD_OUT = 1000


@dataclass(frozen=True)
class Plan:
    """What a run will release and guarantee.

    `epsilon` and `delta` are for the unit: one answer, all `asks_per_image` asks of an image
    together; or one record or user, all answers together. `answers` is the cap on the whole run.
    With route `inherited` epsilon is the teacher's own, infinite until `inherit` has read it.
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

    @property
    def held_out(self) -> int:
        """How many answers the student is never trained on: the first of the last round.

        They are paid like all others and measure the student where there are no test rows. The
        first, because randomised response asks them with a uniform prior (`asking_prior`): their
        answers do not lean to what the student believes.
        """
        return min(_MOST_HELD_OUT, self.queries_per_round // 10)

    def trained_on(self, round: int) -> slice:
        """The answers of one round that reach the bank, also when a run is resumed."""
        return slice(self.held_out if round + 1 == self.rounds else 0, None)

    @property
    def private(self) -> bool:
        """False: epsilon is infinite, or the noise can be predicted."""
        return math.isfinite(self.epsilon) and not self.seeded_noise

    @property
    def scope(self) -> str:
        """`per_answer`, or `total` where epsilon covers all answers together."""
        return "total" if self.unit in ("record", "user", "client") else "per_answer"

    @property
    def event(self) -> accounting.Release:
        """What the ledger holds: one answer, or the training whose post-processing answers are."""
        return self.mechanism.event if self.training is None else self.training.event

    @property
    def test(self) -> accounting.Release | None:
        """The threshold test of one answer, where there is one."""
        return self.mechanism.test if isinstance(self.mechanism, NoisyVotes) else None

    @property
    def histograms(self) -> int | None:
        """The cap on released histograms, where there is a threshold."""
        return self.mechanism.histograms if isinstance(self.mechanism, NoisyVotes) else None

    def releases(self) -> list[tuple[accounting.Release, int]]:
        """All that may change together in the worst case, each with its cap."""
        if self.training is not None:
            return [(self.training.event, 1)]
        if self.test is not None and self.histograms is not None:
            return [(self.mechanism.event, self.histograms), (self.test, self.answers)]
        labels = self.mechanism.labels if isinstance(self.mechanism, Combined) else None
        return [(self.mechanism.event, self.answers), *([] if labels is None else [(labels, 1)])]

    def deltas(self) -> list[float]:
        """The deltas at which a statement gives epsilon: 1e-5, 1e-6, 1/N^1.1, the configured.

        N is the number of answers, or the number of rows where the guarantee is inherited.
        """
        n = self.answers if self.training is None else self.training.rows
        return sorted({1e-5, 1e-6, max(2, n) ** -1.1, self.delta}, reverse=True)

    def unit_epsilon(self, delta: float) -> float:
        """Epsilon of the unit: one answer (all asks of one image), or one record or user."""
        if self.scope == "total":
            return self.worst_case_epsilon(delta)
        return accounting.compose_epsilon([(self.mechanism.event, self.asks_per_image)], delta)

    def worst_case_epsilon(self, delta: float) -> float:
        """Epsilon if all answers change at once, as one changed record may make them."""
        return accounting.compose_epsilon(self.releases(), delta)


def make_plan(config: Config) -> Plan:
    """The plan of a configuration, without touching data.

    Raises:
        UserError: top_k above the number of classes, or a bank that will not fit in memory.
    """
    facts = public_facts(config.data)
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
    mechanism = _mechanism(config, facts.classes)
    federated = p.route == "federated"
    plan = Plan(
        unit=unit,
        relation=(FEDERATED if federated else RELATIONS)[unit],
        mechanism=federated_mechanism(config, mechanism) if federated else mechanism,
        epsilon=math.inf if p.epsilon is None else p.epsilon,
        delta=p.delta,
        answers=queries * config.loop.rounds,
        rounds=config.loop.rounds,
        queries_per_round=queries,
        asks_per_image=p.asks_per_image,
        explore=p.explore,
        facts=facts,
        seeded_noise=p.insecure_seeded_noise,
        route=p.route,
    )
    _check_memory(config, plan)
    return plan


def inherit(plan: Plan, training: DpTraining) -> Plan:
    """The plan with the guarantee of the teacher's own training (route `inherited`)."""
    known = replace(
        plan, training=training, seeded_noise=plan.seeded_noise or training.seeded_noise
    )
    return replace(known, epsilon=known.unit_epsilon(plan.delta))


def _votes(config: Config, classes: int) -> NoisyVotes:
    p, answers = config.privacy, config.queries_per_round() * config.loop.rounds
    voters = config.federated.clients if p.unit == "client" else config.teacher.shards
    assert p.epsilon is not None and voters is not None
    if p.threshold is None:
        sigma, _ = calibrate_votes(p.epsilon, p.delta, answers)
        return NoisyVotes(classes, voters, sigma, p.top_k)
    histograms = answers if p.threshold_answers is None else min(p.threshold_answers, answers)
    sigma, test = calibrate_votes(p.epsilon, p.delta, histograms, answers, p.threshold_share)
    return NoisyVotes(classes, voters, sigma, p.top_k, p.threshold, test, histograms)


def _mechanism(config: Config, classes: int) -> Mechanism:
    p = config.privacy
    if p.mechanism == "none" or p.epsilon is None:
        return NoMechanism(classes)
    if p.mechanism == "noisy_votes":
        return _votes(config, classes)
    if p.mechanism == "randomized_response" and p.ask == "group":
        return GroupResponse(classes, p.epsilon / p.asks_per_image, p.prior == "student")
    if p.mechanism == "randomized_response" and p.ask == "graded":
        return _graded(GradedResponse(classes, p.epsilon / p.asks_per_image))
    if p.mechanism == "randomized_response":
        return RandomizedResponse(
            classes,
            epsilon=p.epsilon / p.asks_per_image,
            top_k=p.top_k,
            uses_prior=p.prior == "student",
        )
    k = p.top_k or classes
    sensitivity = Gaussian(classes, 1.0, p.vector, p.bound, p.bound_norm, k).sensitivity
    mu = accounting.gaussian_mu(p.epsilon, p.delta) / math.sqrt(p.asks_per_image)
    return Gaussian(classes, sensitivity / mu, p.vector, p.bound, p.bound_norm, k)


def _graded(mechanism: GradedResponse) -> GradedResponse:
    if not mechanism.grades:
        raise UserError(
            f"privacy.epsilon: {mechanism.epsilon:g} per ask; accepted with ask graded and "
            f"{mechanism.classes} classes: from {least_epsilon(mechanism.classes):.3g}"
        )
    return mechanism


def expected_bytes(config: Config, plan: Plan) -> int:
    """Memory that the bank and one round of queries need, in bytes, on top of torch."""
    pixels = math.prod(plan.facts.shape)
    bank = bank_bytes(min(config.loop.window, plan.answers), plan.facts.shape, plan.facts.classes)
    return bank + plan.queries_per_round * config.generator.select * (pixels + 8)


def _check_memory(config: Config, plan: Plan) -> None:
    need, have = expected_bytes(config, plan), available_bytes()
    if need > have:
        raise UserError(
            f"loop.window: {config.loop.window} images and {plan.queries_per_round} queries a "
            f"round need {need / 2**30:.1f} GiB, and {have / 2**30:.1f} GiB are free; "
            "lower loop.window or raise loop.rounds"
        )


def available_bytes() -> int:
    """Memory that is free now, in bytes."""
    try:
        with open("/proc/meminfo") as f:
            for line in f:
                if line.startswith("MemAvailable:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass
    return 2**62
