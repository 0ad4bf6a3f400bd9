"""The randomised functions inside the oracle: what is released, and what it says of each class.

A mechanism turns the teacher's probabilities into `Answers`. Everything in `Answers` is released;
`log_likelihood` is post-processing. The unit of a guarantee stands in each mechanism's file.
"""

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from dpsd.privacy.events import OpenRelease, Release
from dpsd.privacy.noise import NoiseSource


@dataclass(frozen=True)
class Answers:
    """What came through the door for B images: public from here on.

    Attributes:
        values: `gaussian` float32 [B, k], noisy; `randomized_response` int64 [B], labels
            or numbers of graded answers;
            `noisy_votes` int64 [B, k], noisy counts; `none` float32 [B, K], log-probabilities.
        support: int64 [B, k], classes by the student's ranking, best first; None: all classes.
        size: `randomized_response` int64 [B], how many of `support` count for a row;
            `noisy_votes` with a threshold int64 [B], 1 where a histogram is released, else 0.
        prior: `gaussian` with vector `gradient`, float32 [B, k], the student's p_s on the support.
    """

    values: Tensor
    support: Tensor | None = None
    size: Tensor | None = None
    prior: Tensor | None = None

    def __len__(self) -> int:
        return len(self.values)


def likeliest(prior: Tensor, k: int) -> Tensor:
    """The k classes that the student believes most, best first: float [B, K] -> int64 [B, k].

    Of equals the first comes first, so that all who know the prior find the same.
    """
    return prior.argsort(dim=1, descending=True, stable=True)[:, :k]


class Mechanism(Protocol):
    """A randomised function of what the teacher says, with its exact guarantee."""

    @property
    def takes_votes(self) -> bool:
        """Whether `release` takes counts of votes, int64 [B, K], instead of probabilities."""

    @property
    def soft_targets(self) -> bool:
        """Whether `log_likelihood` is the log of a distribution to match; no prior enters then."""

    @property
    def classes(self) -> int:
        """K."""

    @property
    def name(self) -> str:
        """Its name in the configuration."""

    @property
    def uses_prior(self) -> bool:
        """Whether the student's prediction is needed at asking."""

    @property
    def event(self) -> Release:
        """One answer, as the accountant sees it."""

    def facts(self) -> dict[str, object]:
        """Parameters and derivation, for plan and statement."""

    def release(self, teacher: Tensor, prior: Tensor | None, noise: NoiseSource) -> Answers:
        """Privatise teacher probabilities, float [B, K]; prior float32 [B, K] or None."""

    def log_likelihood(self, answers: Answers) -> Tensor:
        """Log p(answer | the teacher's class is c), float32 [B, K], up to a constant a row."""


@dataclass(frozen=True)
class NoMechanism:
    """Releases the teacher's probabilities as they are: not private, eps = inf."""

    classes: int

    takes_votes = False
    soft_targets = True

    @property
    def name(self) -> str:
        """Its name in the configuration."""
        return "none"

    @property
    def uses_prior(self) -> bool:
        """Whether the student's prediction is needed at asking."""
        return False

    @property
    def event(self) -> Release:
        """One answer, as the accountant sees it."""
        return OpenRelease()

    def facts(self) -> dict[str, object]:
        """Parameters and derivation, for plan and statement."""
        return {
            "mechanism": self.name,
            "sensitivity": None,
            "derivation": "nothing is privatised",
            "noise": "none",
        }

    def release(self, teacher: Tensor, prior: Tensor | None, noise: NoiseSource) -> Answers:
        """The log-probabilities, float32 [B, K]."""
        return Answers(teacher.double().clamp_min(1e-30).log().float())

    def log_likelihood(self, answers: Answers) -> Tensor:
        """The teacher's own log-probabilities, float32 [B, K]."""
        return answers.values
