"""Noisy votes of an ensemble: the whole histogram with discrete Gaussian noise.

Unit: what one teacher's training set belongs to, a record or a user. One replaced record or user
touches one teacher, whose vote moves from one count to another; all answers compose.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from dpsd.errors import UserError
from dpsd.privacy.events import Release, VotesRelease
from dpsd.privacy.mechanisms.base import Answers, likeliest
from dpsd.privacy.mechanisms.vote_profile import VoteProfile, fit_profile, profile_likelihood
from dpsd.privacy.noise import NoiseSource


@dataclass(frozen=True)
class NoisyVotes:
    """Releases all counts, or those of the student's top k classes, plus integer noise.

    With a threshold a row is answered only where the largest count plus noise of its own reaches it
    (Confident-GNMax, Papernot et al. 2018, arXiv 1802.08908); the test is charged for every row,
    the histogram where it is released.

    Args:
        classes: K.
        voters: n, the number of teachers, each with one vote.
        sigma: of the noise in each released count, in votes.
        top_k: release only the counts of the k classes that the student ranks highest.
        threshold: in votes; None: every row is answered.
        test_sigma: of the noise in the test, in votes.
        histograms: released at most in a run, where there is a threshold.
    """

    classes: int
    voters: int
    sigma: float
    top_k: int | None = None
    threshold: float | None = None
    test_sigma: float | None = None
    histograms: int | None = None

    takes_votes = True
    soft_targets = False

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

    @property
    def test(self) -> Release | None:
        """One threshold test, as the accountant sees it: the largest count moves by at most one."""
        if self.test_sigma is None:
            return None
        return VotesRelease(self.test_sigma, cells=1)

    def facts(self) -> dict[str, object]:
        """Parameters and derivation, for plan and statement."""
        return {
            "mechanism": self.name,
            "voters": self.voters,
            "top_k": self.k,
            "threshold": self.threshold,
            "test_sigma": self.test_sigma,
            "sensitivity": self.sensitivity,
            "derivation": "sqrt(2): one teacher's vote moves from one count to another, whatever "
            "the number of teachers",
            "sigma": self.sigma,
            "noise": f"exact discrete Gaussian, sigma {self.sigma:.6g} votes in each of {self.k} "
            "counts",
        }

    def repaired(self, votes: Tensor) -> Tensor:
        """Counts that are whole, non-negative and sum to n, int64 [B, K], from whatever came.

        A count that is none becomes 0, and missing votes go to class 0, so that a teacher that cast
        no vote still moves two counts by one. A row with more than n votes, which no set of n
        teachers can give, becomes n votes for class 0.

        Raises:
            UserError: not [B, K]; the shape is public.
        """
        if votes.ndim != 2 or votes.shape[1] != self.classes:
            raise UserError(
                f"teacher: votes of shape {list(votes.shape)}; accepted: [B, {self.classes}]"
            )
        counts = votes.double()
        good = counts.isfinite() & (counts >= 0) & (counts == counts.round())
        counts = torch.where(good, counts, 0.0)
        counts = torch.where(counts.sum(1, keepdim=True) > self.voters, 0.0, counts).long()
        counts[:, 0] += self.voters - counts.sum(1)
        return counts

    def release(self, teacher: Tensor, prior: Tensor | None, noise: NoiseSource) -> Answers:
        """Privatise votes, int64 [B, K] with row sums n; prior float32 [B, K] or None.

        `values` is int64 [B, k]; with a threshold `size` is 1 where a histogram is released, and
        the values of the other rows are 0.
        """
        size = None
        if self.threshold is not None and self.test_sigma is not None:
            tested = teacher.amax(1).numpy() + noise.discrete_gaussians(
                (len(teacher),), self.test_sigma
            )
            size = torch.from_numpy(tested >= self.threshold).long()
        support = None
        if self.uses_prior:
            assert prior is not None
            support = likeliest(prior, self.k)
            teacher = teacher.gather(1, support)
        shape = tuple(teacher.shape)
        values = teacher + torch.from_numpy(noise.discrete_gaussians(shape, self.sigma))
        if size is not None:
            values = values * size[:, None]
        return Answers(values, support, size)

    def profile(self, answers: Answers) -> VoteProfile:
        """How votes spread over the ranks, estimated from released histograms alone."""
        kept = released(answers)
        support = None if answers.support is None else answers.support[kept]
        return fit_profile(
            answers.values[kept], support, sigma=self.sigma, voters=self.voters,
            classes=self.classes,
        )  # fmt: skip

    def log_likelihood(self, answers: Answers, profile: VoteProfile | None = None) -> Tensor:
        """An approximation of log p(histogram | class c has the most votes), float32 [B, K].

        Votes are correlated, so that no formula in n and sigma gives it. The profile (by default
        that of these very answers) says how often the first and the second class get which shares;
        the second is taken to be any other class alike, and the rest to be even. Rows without a
        histogram are 0 everywhere. Up to a constant a row.
        """
        out = torch.zeros((len(answers), self.classes))
        kept = released(answers)
        if not kept.any():
            return out
        support = None if answers.support is None else answers.support[kept]
        out[kept] = profile_likelihood(
            answers.values[kept], support, self.profile(answers) if profile is None else profile,
            classes=self.classes,
        )  # fmt: skip
        return out


def released(answers: Answers) -> Tensor:
    """Rows that carry a histogram, bool [B]."""
    if answers.size is None:
        return torch.ones(len(answers), dtype=torch.bool)
    return answers.size > 0
