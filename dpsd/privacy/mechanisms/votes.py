"""Noisy votes of an ensemble: the whole histogram with discrete Gaussian noise.

Unit: what one teacher's training set belongs to, a record or a user. One replaced record or user
touches one teacher, whose vote moves from one count to another; all answers compose.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dpsd.errors import UserError
from dpsd.privacy.events import Release, VotesRelease
from dpsd.privacy.mechanisms.base import Answers, Mechanism, beyond, gap_ratio, likeliest
from dpsd.privacy.mechanisms.pair_loss import PairLoss
from dpsd.privacy.mechanisms.vote_profile import VoteProfile, fit_profile, profile_likelihood
from dpsd.privacy.noise import NoiseSource

_REACH = 40.0  # standard deviations; the noise passes them with a probability below 1e-340


@dataclass(frozen=True)
class NoisyVotes(Mechanism):
    """Releases all counts, or those of the student's top k classes, plus integer noise.

    Args:
        classes: K.
        voters: n, the number of teachers, each with one vote.
        sigma: of the noise in each released count, in votes.
        top_k: release only the counts of the k classes that the student ranks highest.
    """

    voters: int
    sigma: float
    top_k: int | None = None

    @property
    def name(self) -> str:
        """Its name in the configuration."""
        return "noisy_votes"

    @property
    def k(self) -> int:
        """Released counts."""
        return self.classes if self.top_k is None else self.top_k

    @property
    def uses_prior(self) -> bool:
        """Whether the student's prediction is needed at asking."""
        return self.k < self.classes

    @property
    def sensitivity(self) -> float:
        """L2: one vote leaves a count and enters another."""
        return math.sqrt(2)

    @property
    def event(self) -> Release:
        """One histogram, as the accountant sees it."""
        return VotesRelease(self.sigma)

    def facts(self) -> dict[str, object]:
        """Parameters and derivation, for plan and statement."""
        return {
            "mechanism": self.name,
            "voters": self.voters,
            "top_k": self.k,
            "sensitivity": self.sensitivity,
            "derivation": "sqrt(2): one teacher's vote moves from one count to another, whatever "
            "the number of teachers",
            "sigma": self.sigma,
            "noise": f"exact discrete Gaussian, sigma {self.sigma:.6g} votes in each of {self.k} "
            "counts",
        }

    def read(self, said: Tensor) -> Tensor:
        """Counts that are whole, non-negative and sum to n, int64 [B, K], from whatever came.

        A count that is none becomes 0, and missing votes go to class 0, so that a teacher that cast
        no vote still moves two counts by one. A row with more than n votes, which no set of n
        teachers can give, becomes n votes for class 0.

        Raises:
            UserError: not [B, K]; the shape is public.
        """
        if said.ndim != 2 or said.shape[1] != self.classes:
            raise UserError(
                f"teacher: votes of shape {list(said.shape)}; accepted: [B, {self.classes}]"
            )
        counts = said.double()
        good = counts.isfinite() & (counts >= 0) & (counts == counts.round())
        counts = torch.where(good, counts, 0.0)
        counts = torch.where(counts.sum(1, keepdim=True) > self.voters, 0.0, counts).long()
        counts[:, 0] += self.voters - counts.sum(1)
        return counts

    def release(self, teacher: Tensor, prior: Tensor | None, noise: NoiseSource) -> Answers:
        """Privatise votes, int64 [B, K] with row sums n; prior float32 [B, K] or None.

        `values` is int64 [B, k].
        """
        support = None
        if self.uses_prior:
            assert prior is not None
            support = likeliest(prior, self.k)
            teacher = teacher.gather(1, support)
        shape = tuple(teacher.shape)
        values = teacher + torch.from_numpy(noise.discrete_gaussians(shape, self.sigma))
        return Answers(values, support)

    def log_likelihood(self, answers: Answers, profile: VoteProfile | None = None) -> Tensor:
        """An approximation of log p(histogram | class c has the most votes), float32 [B, K].

        Votes are correlated, so that no formula in n and sigma gives it. The profile (by default
        that of these very answers) says how often the first and the second class get which shares;
        the second is taken to be any other class alike, and the rest to be even. Up to a constant
        a row.
        """
        if not len(answers):
            return torch.zeros((0, self.classes))
        return profile_likelihood(
            answers.values, answers.support, profile or self.profile(answers), classes=self.classes
        )

    def profile(self, answers: Answers) -> VoteProfile:
        """How votes spread over the ranks, estimated from released histograms alone."""
        return fit_profile(
            answers.values, answers.support, sigma=self.sigma, voters=self.voters,
            classes=self.classes,
        )  # fmt: skip

    def farthest_worlds(self) -> tuple[Tensor, Tensor]:
        """All other teachers name the first class; one names the first or the second, [K] each."""
        others = torch.zeros(self.classes, dtype=torch.int64)
        others[0] = self.voters - 1
        one = torch.eye(self.classes, dtype=torch.int64)
        return others + one[0], others + one[1]

    def log_ratio(
        self, answers: Answers, world0: Tensor, world1: Tensor, prior: Tensor | None
    ) -> Tensor:
        """As of Gaussian noise around both worlds' counts, float64 [B]; exact on the integers."""
        mean0, mean1 = world0[None].double(), world1[None].double()
        if answers.support is not None:
            mean0, mean1 = (w.double()[answers.support] for w in (world0, world1))
        return gap_ratio(answers.values.double(), mean0, mean1, self.sigma)

    def pair_loss(self, asked: Answers, world0: Tensor, world1: Tensor) -> PairLoss:
        """Counts that differ by one vote compose."""
        if asked.support is not None:
            world0, world1 = (w.gather(1, asked.support) for w in (world0, world1))
        moved = (world0 - world1).abs().sum(1)
        return PairLoss(
            len(asked), int((moved > 0).sum()), cells=int(moved.sum()),
            two_cells=int((moved == 2).sum()), sigma=self.sigma,
        )  # fmt: skip

    def values_spec(self, rows: int) -> tuple[str, tuple[int, ...]]:
        """Whole numbers [B, k]."""
        return "iu", (rows, self.k)

    def impossible(self, values: NDArray[Any], asked: Answers) -> str | None:
        """All votes plus the farthest noise."""
        return beyond(values, self.voters + _REACH * self.sigma)


def labels_impossible(counts: NDArray[np.int64], sigma: float | None) -> str | None:
    """Why no label histogram with noise of sigma (None: without) has these counts, or None."""
    low = -_REACH * (sigma or 0.0)
    return f"a label count below {low:.0f}" if (counts < low).any() else None
