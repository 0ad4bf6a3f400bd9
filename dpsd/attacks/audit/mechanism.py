"""The mechanism-level auditor: draws answers in two worlds and bounds epsilon from below.

Two steps that never merge: `audit_mechanism` gives scores, the bounds turn scores into numbers that
hold with a stated confidence. A bound above the stated figure proves the statement wrong; a bound
below it proves nothing. Unit: one answer.
"""

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from dpsd.attacks.statistics import Scores, epsilon_from_hits, mu_from_hits
from dpsd.errors import UserError
from dpsd.privacy.mechanisms.base import Mechanism
from dpsd.privacy.noise import NoiseSource


@dataclass(frozen=True)
class AuditScores:
    """log p(answer | world 1) - log p(answer | world 0) of each draw, float64 [draws] a world."""

    world0: Scores
    world1: Scores


def audit_mechanism(
    mechanism: Mechanism,
    world0: Tensor,
    world1: Tensor,
    prior: Tensor | None = None,
    *,
    draws: int = 100_000,
    noise: NoiseSource | None = None,
) -> AuditScores:
    """Draw answers to one image in two worlds that differ in the teacher alone.

    The score is the exact log-likelihood ratio, the strongest statistic there is; 0 is the
    threshold that needs no look at the draws.

    Args:
        mechanism: what is audited.
        world0: the teacher's probabilities, float [K], or counts of votes, int64 [K].
        world1: those of the other teacher, likewise.
        prior: the student's probabilities, float32 [K], where the mechanism uses one.
        draws: answers in each world.
        noise: default: fresh cryptographic noise.

    Raises:
        UserError: probabilities of another shape than [K], or a prior that is missing.
    """
    for name, given in (("world0", world0), ("world1", world1), ("prior", prior)):
        if given is not None and given.shape != (mechanism.classes,):
            raise UserError(f"{name}: shape {list(given.shape)}; accepted: [{mechanism.classes}]")
    if mechanism.uses_prior and prior is None:
        raise UserError(f"prior: None, but this {mechanism.name} needs the student's prediction")
    if draws < 1:
        raise UserError(f"draws: {draws}; accepted: from 1")
    source = NoiseSource() if noise is None else noise
    believed = None if prior is None else prior.expand(draws, -1)

    def scores(world: Tensor) -> Scores:
        answers = mechanism.release(world.expand(draws, -1), believed, source)
        ratio = mechanism.log_ratio(answers, world0, world1, prior)
        return np.asarray(ratio.numpy(), dtype=np.float64)

    return AuditScores(scores(world0), scores(world1))


def lower_bound_epsilon(
    world0: Scores, world1: Scores, threshold: float = 0.0, delta: float = 0.0, alpha: float = 0.05
) -> float:
    """The epsilon that the draws refute all smaller values of, at confidence 1 - alpha.

    eps_lo = ln((TPR_lo - delta) / FPR_hi) with Clopper-Pearson bounds, the larger of both
    directions: "score above the threshold" speaks for world 1, its complement for world 0.

    Args:
        world0: scores of draws in world 0.
        world1: scores of draws in world 1.
        threshold: fixed before the draws were seen.
        delta: of the (eps, delta) that is tested.
        alpha: chance that the bound exceeds the true epsilon, both rates and directions together.

    Returns:
        At least 0.
    """
    found = epsilon_from_hits(*_hits(world0, threshold), *_hits(world1, threshold), delta, alpha)
    return float(found)


def lower_bound_mu(
    world0: Scores, world1: Scores, threshold: float = 0.0, alpha: float = 0.05
) -> float:
    """The mu of mu-GDP that the draws refute all smaller values of, at confidence 1 - alpha.

    mu_lo = Phi^-1(TPR_lo) - Phi^-1(FPR_hi) (Dong, Roth and Su 2022, definition 4; the form is the
    same in both directions). Arguments as in `lower_bound_epsilon`.

    Returns:
        At least 0.
    """
    return float(mu_from_hits(*_hits(world0, threshold), *_hits(world1, threshold), alpha))


def _hits(scores: Scores, threshold: float) -> tuple[int, int]:
    return int((scores > threshold).sum()), len(scores)
