"""Whether a claim for one client is worth anything with so many clients."""

import math
from dataclasses import dataclass

from dpsd.console import percent
from dpsd.planning.votes import correct_rate
from dpsd.privacy.mechanisms.votes import NoisyVotes

AGREE, RIVAL = 0.7, 0.15
"""Assumed shares of the clients that name the first and the second class of an image."""
WORTH = 0.5
"""Answers are worth something if they name the first class at least this often."""


@dataclass(frozen=True)
class Enough:
    """How good the answers of the planned clients are.

    Attributes:
        correct: how often the largest noisy count is the class that most clients name.
        needed: least number of clients where that happens in half of the answers, at this noise.
    """

    clients: int
    sigma: float
    correct: float
    needed: int

    @property
    def worth(self) -> bool:
        """Whether there are enough clients."""
        return self.clients >= self.needed


def enough_clients(mechanism: NoisyVotes) -> Enough:
    """For unit client, at the assumed shares. The noise depends on epsilon and answers alone."""

    def correct(clients: int) -> float:
        return correct_rate(AGREE, RIVAL, clients, mechanism.sigma, mechanism.classes)

    low, high = 1, 2
    while correct(high) < WORTH:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if correct(middle) < WORTH else (low, middle)
    return Enough(mechanism.voters, mechanism.sigma, correct(mechanism.voters), high)


def enough_line(mechanism: NoisyVotes) -> str:
    """The planner's sentence on the number of clients."""
    e = enough_clients(mechanism)
    verdict = "enough" if e.worth else "too few for the claim for one client to be worth anything"
    assert math.isfinite(e.sigma)
    return (
        f"Clients: {e.clients:,} are {verdict}: noise of {e.sigma:.4g} votes in each count leaves "
        f"the class that most of them name on top in {percent(e.correct, 0)} of the answers "
        f"(by guessing {percent(1 / mechanism.classes, 0)}), if {percent(AGREE, 0)} of the "
        f"clients agree and {percent(RIVAL, 0)} name one rival; half of the answers need "
        f"{e.needed:,} clients at this epsilon for one client and this number of answers."
    )
