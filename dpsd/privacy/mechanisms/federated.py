"""Mechanisms of a federation: what the server makes of answers, and what a client gives."""

from dataclasses import dataclass

import torch
from torch import Tensor

from dpsd.errors import UserError
from dpsd.privacy.events import Release, VotesRelease
from dpsd.privacy.mechanisms.base import Answers, Mechanism
from dpsd.privacy.noise import NoiseSource


@dataclass(frozen=True)
class Combined:
    """The server's view of answers that clients privatised themselves: their sum of evidence.

    Args:
        inner: what each client releases.
        clients: how many were planned.
        aggregate: how their answers become one.
        labels_sigma: of the noise in each count of a client's label histogram, or None.
    """

    inner: Mechanism
    clients: int
    aggregate: str
    labels_sigma: float | None = None

    takes_votes = False

    @property
    def soft_targets(self) -> bool:
        """Whether the clients' answers are distributions to match."""
        return self.inner.soft_targets

    @property
    def classes(self) -> int:
        """K."""
        return self.inner.classes

    @property
    def name(self) -> str:
        """The inner mechanism's name in the configuration."""
        return self.inner.name

    @property
    def uses_prior(self) -> bool:
        """Whether the student's prediction is needed at asking."""
        return self.inner.uses_prior

    @property
    def event(self) -> Release:
        """One client's answer: a unit lives with one client."""
        return self.inner.event

    @property
    def labels(self) -> Release | None:
        """One client's label histogram, once: a replaced record moves two counts by one."""
        return None if self.labels_sigma is None else VotesRelease(self.labels_sigma)

    def facts(self) -> dict[str, object]:
        """Parameters and derivation, for plan and statement."""
        return self.inner.facts() | {
            "clients": self.clients,
            "aggregate": self.aggregate,
            "labels_sigma": self.labels_sigma,
        }

    def release(self, teacher: Tensor, prior: Tensor | None, noise: NoiseSource) -> Answers:
        """Clients release, not the server."""
        raise UserError("privacy.route: federated; clients privatise their own answers")

    def log_likelihood(self, answers: Answers) -> Tensor:
        """`values` are the combined log-likelihoods already, float32 [B, K]."""
        return answers.values


@dataclass(frozen=True)
class GivenVotes:
    """A client's vote, given to the trusted server that adds the noise. Unit: one client.

    Args:
        classes: K.
        sigma: of the noise that the server adds to each count, in votes.
    """

    classes: int
    sigma: float

    takes_votes = False
    soft_targets = False
    name = "noisy_votes"
    uses_prior = False

    @property
    def event(self) -> Release:
        """One histogram, as it leaves the server."""
        return VotesRelease(self.sigma)

    def facts(self) -> dict[str, object]:
        """Parameters, for the plan."""
        return {"mechanism": self.name, "sigma": self.sigma}

    def release(self, teacher: Tensor, prior: Tensor | None, noise: NoiseSource) -> Answers:
        """Votes of the clients on a node, int64 [B, clients], as they are: a class each."""
        whole = (teacher >= 0) & (teacher < self.classes)
        return Answers(torch.where(whole, teacher, 0))

    def log_likelihood(self, answers: Answers) -> Tensor:
        """The server's mechanism knows it; a vote alone is not for the student."""
        raise UserError("privacy.unit: client; single votes are for the server's sum alone")
