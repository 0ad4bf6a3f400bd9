"""One object that holds mechanism, sensitivity, relation, noise and cap together.

No part of it can be configured into breaking another's guarantee: the noise is computed from the
sensitivity, epsilon, delta and the number of asks, never given.
"""

import math
from dataclasses import dataclass

from dpsd.config import Config
from dpsd.data import PublicFacts, public_facts
from dpsd.errors import UserError
from dpsd.generator.bank import bank_bytes
from dpsd.privacy import accounting
from dpsd.privacy.gaussian import Gaussian
from dpsd.privacy.group_response import GroupResponse
from dpsd.privacy.mechanisms import Mechanism, NoMechanism
from dpsd.privacy.randomized_response import RandomizedResponse

RELATION = (
    "two teachers that agree on every image but one, where an image is the exact uint8 tensor that "
    "reaches the teacher"
)


@dataclass(frozen=True)
class Plan:
    """What a run will release and guarantee.

    `epsilon` and `delta` are for the unit (one answer), all `asks_per_image` asks of an image
    together. `answers` is the cap on the whole run.
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

    @property
    def private(self) -> bool:
        """False: epsilon is infinite, or the noise can be predicted."""
        return math.isfinite(self.epsilon) and not self.seeded_noise

    def deltas(self) -> list[float]:
        """The deltas at which a statement gives epsilon: 1e-5, 1e-6, 1/N^1.1, the configured."""
        return sorted({1e-5, 1e-6, max(2, self.answers) ** -1.1, self.delta}, reverse=True)

    def unit_epsilon(self, delta: float) -> float:
        """Epsilon of one answer (all asks of one image)."""
        return accounting.compose_epsilon([(self.mechanism.event, self.asks_per_image)], delta)

    def worst_case_epsilon(self, delta: float) -> float:
        """Epsilon if all answers change at once, as one changed record may make them."""
        return accounting.compose_epsilon([(self.mechanism.event, self.answers)], delta)


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
    plan = Plan(
        unit=p.unit if p.mechanism != "none" else "none",
        relation=RELATION,
        mechanism=_mechanism(config, facts.classes),
        epsilon=math.inf if p.epsilon is None else p.epsilon,
        delta=p.delta,
        answers=queries * config.loop.rounds,
        rounds=config.loop.rounds,
        queries_per_round=queries,
        asks_per_image=p.asks_per_image,
        explore=p.explore,
        facts=facts,
        seeded_noise=p.insecure_seeded_noise,
    )
    _check_memory(config, plan)
    return plan


def _mechanism(config: Config, classes: int) -> Mechanism:
    p = config.privacy
    if p.mechanism == "none" or p.epsilon is None:
        return NoMechanism(classes)
    if p.mechanism == "randomized_response" and p.ask == "group":
        return GroupResponse(classes, p.epsilon / p.asks_per_image, p.prior == "student")
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
