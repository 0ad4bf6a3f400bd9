"""The mechanism-level audit: answers drawn in two worlds, and the score of each.

Two steps that never merge: `audit_mechanism` gives scores, `dpsd.attacks.audit.bounds` turns scores
into figures that hold with a stated confidence. A bound above the stated figure proves the
statement wrong; a bound below it proves nothing. Unit: one answer.
"""

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from dpsd.attacks.statistics import Floats
from dpsd.errors import UserError
from dpsd.privacy.mechanisms.base import Mechanism
from dpsd.privacy.noise import NoiseSource


@dataclass(frozen=True)
class AuditScores:
    """log p(answer | world 1) - log p(answer | world 0) of each draw, float64 [draws] a world."""

    world0: Floats
    world1: Floats


def audit_mechanism(
    mechanism: Mechanism,
    world0: Tensor,
    world1: Tensor,
    prior: Tensor | None = None,
    *,
    draws: int = 100_000,
    noise: NoiseSource | None = None,
) -> AuditScores:
    """Scores of answers to one image in two worlds that differ in the teacher alone.

    The score is the exact log-likelihood ratio, the strongest statistic there is; the
    threshold 0 is fixed without a look at the draws.

    Args:
        mechanism: what is audited.
        world0: the teacher's probabilities, float [K], or counts of votes, int64 [K].
        world1: those of the other teacher, likewise.
        prior: the student's probabilities, float32 [K], where the mechanism uses one.
        draws: answers in each world.
        noise: default: fresh cryptographic noise.

    Raises:
        UserError: probabilities of another shape than [K], a missing prior, or no draws.
    """
    for name, vector in (("world0", world0), ("world1", world1), ("prior", prior)):
        if vector is not None and vector.shape != (mechanism.classes,):
            raise UserError(f"{name}: shape {list(vector.shape)}; accepted: [{mechanism.classes}]")
    if mechanism.uses_prior and prior is None:
        raise UserError(f"prior: None, but this {mechanism.name} needs the student's prediction")
    if draws < 1:
        raise UserError(f"draws: {draws}; accepted: from 1")
    source = NoiseSource() if noise is None else noise
    believed = None if prior is None else prior.expand(draws, -1)

    def scores(world: Tensor) -> Floats:
        answers = mechanism.release(world.expand(draws, -1), believed, source)
        ratio = mechanism.log_ratio(answers, world0, world1, prior)
        return np.asarray(ratio.numpy(), dtype=np.float64)

    return AuditScores(scores(world0), scores(world1))
