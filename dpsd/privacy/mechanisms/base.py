"""What every mechanism answers about itself: what it releases, and what that says of each class.

A mechanism turns the teacher's probabilities into `Answers`. Everything in `Answers` is released;
`log_likelihood` is post-processing. The unit of a guarantee stands in each mechanism's file.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dpsd.privacy.events import OpenRelease, Release
from dpsd.privacy.mechanisms.pair_loss import PairLoss
from dpsd.privacy.noise import NoiseSource

_REACH = 1e3  # log-probabilities that a reply may hold


@dataclass(frozen=True)
class Answers:
    """What came through the door for B images: public from here on.

    Attributes:
        values: `gaussian` float32 [B, k], noisy; `randomized_response` int64 [B], labels
            or numbers of graded answers;
            `noisy_votes` int64 [B, k], noisy counts; `none` float32 [B, K], log-probabilities.
        support: int64 [B, k], classes by the student's ranking, best first; None: all classes.
        size: `randomized_response` int64 [B], how many of `support` count for a row.
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

    Ties go to the lower class index, so that all who know the prior find the same.
    """
    return prior.argsort(dim=1, descending=True, stable=True)[:, :k]


@dataclass(frozen=True)
class Mechanism(ABC):
    """A randomised function of what the teacher says, with its exact guarantee.

    Args:
        classes: K.
    """

    classes: int

    @property
    @abstractmethod
    def name(self) -> str:
        """Its name in the configuration."""

    @property
    @abstractmethod
    def event(self) -> Release:
        """One answer, as the accountant sees it."""

    @property
    def uses_prior(self) -> bool:
        """Whether the student's prediction is needed at asking."""
        return False

    @property
    def soft_targets(self) -> bool:
        """Whether `log_likelihood` is the log of a distribution to match; no prior enters then."""
        return False

    @property
    def privatiser(self) -> "Mechanism":
        """The mechanism that adds the noise: this one, or the one that it was made of."""
        return self

    def beside(self) -> list[tuple[Release, int]]:
        """What a run releases beside its answers, each with how often."""
        return []

    @abstractmethod
    def facts(self) -> dict[str, object]:
        """Parameters and derivation, for plan and statement."""

    def read(self, said: Tensor) -> Tensor:
        """What `release` takes, from what the teacher said: by default probabilities, of logits.

        Args:
            said: logits, float [B, K].

        Returns:
            float32 [B, K]. A row of logits that is not finite becomes uniform: a teacher that
            breaks must not stop the run, which would be a release.
        """
        logits = said.float()
        good = logits.isfinite().all(1, keepdim=True)
        return torch.where(good, logits, 0.0).softmax(1)

    @abstractmethod
    def release(self, teacher: Tensor, prior: Tensor | None, noise: NoiseSource) -> Answers:
        """Privatise teacher probabilities, float [B, K]; prior float32 [B, K] or None."""

    @abstractmethod
    def log_likelihood(self, answers: Answers) -> Tensor:
        """Log p(answer | the teacher's class is c), float32 [B, K], up to a constant a row."""

    def farthest_worlds(self) -> tuple[Tensor, Tensor]:
        """What two teachers say of one image whose answers are as far apart as can be, [K] each."""
        sure = torch.eye(self.classes, dtype=torch.float64)
        return sure[0], sure[1]

    def log_ratio(
        self, answers: Answers, world0: Tensor, world1: Tensor, prior: Tensor | None
    ) -> Tensor:
        """Exact log p(answer | world 1) - log p(answer | world 0) of answers to one image.

        Args:
            answers: B of them.
            world0: what `release` takes of the teacher, [K].
            world1: of the other teacher, likewise.
            prior: the student's probabilities at asking, float32 [K], or None.

        Returns:
            float64 [B].
        """
        by_class = self.log_likelihood(answers).double()
        return by_class[:, int(world1.argmax())] - by_class[:, int(world0.argmax())]

    @abstractmethod
    def pair_loss(self, asked: Answers, world0: Tensor, world1: Tensor) -> PairLoss:
        """What a transcript of answers tells of which of two teachers gave them.

        Args:
            asked: the answers, of which only the public part enters: support, size, prior.
            world0: what `release` takes of the teacher, [B, K].
            world1: of the other teacher, likewise.
        """

    @property
    def draws_support(self) -> bool:
        """Whether `support` and `size` are drawn at random, and not implied by the prior."""
        return False

    @abstractmethod
    def values_spec(self, rows: int) -> tuple[str, tuple[int, ...]]:
        """Kinds of numpy dtypes and shape that `values` of so many rows have."""

    @abstractmethod
    def impossible(self, values: NDArray[Any], asked: Answers) -> str | None:
        """Why no honest `release` can give values of the right shape; None: it can.

        The noise has bounded reach, so that honest values never fall outside.

        Args:
            values: as `values_spec` says.
            asked: whose support and size are public.
        """


@dataclass(frozen=True)
class NoMechanism(Mechanism):
    """Releases the teacher's probabilities as they are: not private, eps = inf."""

    @property
    def name(self) -> str:
        """Its name in the configuration."""
        return "none"

    @property
    def event(self) -> Release:
        """One answer, as the accountant sees it."""
        return OpenRelease()

    @property
    def soft_targets(self) -> bool:
        """The teacher's own distribution is the target."""
        return True

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

    def pair_loss(self, asked: Answers, world0: Tensor, world1: Tensor) -> PairLoss:
        """An answer that differs tells everything."""
        differ = int((world0 != world1).any(1).sum())
        return PairLoss(len(asked), differ, open=differ > 0)

    def values_spec(self, rows: int) -> tuple[str, tuple[int, ...]]:
        """Floats [B, K]."""
        return "f", (rows, self.classes)

    def impossible(self, values: NDArray[Any], asked: Answers) -> str | None:
        """Log-probabilities are at most 0, and their exponentials sum to 1."""
        if (why := beyond(values, _REACH)) is not None or not values.size:
            return why
        off = abs(np.exp(values.astype(np.float32)).sum(1) - 1).max()
        return "log-probabilities that are none" if values.max() > 1e-3 or off > 1e-2 else None


def beyond(values: NDArray[Any], reach: float) -> str | None:
    """Says so where some absolute value is above `reach`."""
    far = values.size and (values.max() > reach or values.min() < -reach)
    return f"values beyond {reach:.4g}" if far else None


def gap_ratio(noisy: Tensor, mean0: Tensor, mean1: Tensor, sigma: float) -> Tensor:
    """Log-likelihood ratio of Gaussian vectors around two means, float64 [B]."""
    gap = (noisy - mean0).square().sum(1) - (noisy - mean1).square().sum(1)
    return gap / (2 * sigma**2)


def gaussian_loss(gaps: Tensor, sigma: float) -> PairLoss:
    """The loss of Gaussian vectors whose means differ by squared distances `gaps`, float [B]."""
    return PairLoss(len(gaps), int((gaps > 0).sum()), mu=math.sqrt(float(gaps.sum())) / sigma)
