"""Mechanisms of a federation: what the server makes of answers, and what a client gives."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from numpy.typing import NDArray
from torch import Tensor

from dpsd.errors import UserError
from dpsd.privacy.events import Release, VotesRelease
from dpsd.privacy.mechanisms.aggregate import aggregate
from dpsd.privacy.mechanisms.base import Answers, Mechanism
from dpsd.privacy.mechanisms.pair_loss import PairLoss
from dpsd.privacy.mechanisms.votes import NoisyVotes
from dpsd.privacy.noise import NoiseSource


@dataclass(frozen=True)
class Combined(Mechanism):
    """The server's view of answers that clients privatised themselves: their sum of evidence.

    Args:
        classes: K.
        client: what each client releases.
        clients: how many were planned.
        aggregate: how their answers become one.
        labels_sigma: of the noise in each count of a client's label histogram, or None.
    """

    client: Mechanism
    clients: int
    aggregate: str
    labels_sigma: float | None = None
    sums_votes: ClassVar[bool] = False

    @property
    def name(self) -> str:
        """The client's mechanism's name in the configuration."""
        return self.client.name

    @property
    def event(self) -> Release:
        """One client's answer: a unit lives with one client."""
        return self.client.event

    @property
    def uses_prior(self) -> bool:
        """Whether the student's prediction is needed at asking."""
        return self.client.uses_prior

    @property
    def soft_targets(self) -> bool:
        """Whether the clients' answers are distributions to match."""
        return self.client.soft_targets

    @property
    def privatiser(self) -> Mechanism:
        """The client's."""
        return self.client

    def beside(self) -> list[tuple[Release, int]]:
        """One client's label histogram, once: a replaced record moves two counts by one."""
        return [] if self.labels_sigma is None else [(VotesRelease(self.labels_sigma), 1)]

    def facts(self) -> dict[str, object]:
        """Parameters and derivation, for plan and statement."""
        return self.client.facts() | {
            "clients": self.clients,
            "aggregate": self.aggregate,
            "labels_sigma": self.labels_sigma,
        }

    def release(self, teacher: Tensor, prior: Tensor | None, noise: NoiseSource) -> Answers:
        """Clients release, not the server."""
        raise UserError("privacy.route: federated; clients privatise their own answers")

    def combine(
        self, replies: Sequence[Answers], labels: Tensor | None, prior: Tensor | None,
        noise: NoiseSource,
    ) -> Answers:  # fmt: skip
        """One answer of the clients': post-processing, without noise.

        Args:
            replies: of each client that answered, to the same B images.
            labels: their label histograms, int64 [clients, K], where `aggregate` reads them.
            prior: not read.
            noise: not read.
        """
        scores = torch.stack([self.client.log_likelihood(reply) for reply in replies])
        private = self.event.kind != "open"
        return Answers(aggregate(self.aggregate, scores, private=private, labels=labels))

    def log_likelihood(self, answers: Answers) -> Tensor:
        """`values` are the combined log-likelihoods already, float32 [B, K]."""
        return answers.values

    def pair_loss(self, asked: Answers, world0: Tensor, world1: Tensor) -> PairLoss:
        """That of one client's answers."""
        return self.client.pair_loss(asked, world0, world1)

    def values_spec(self, rows: int) -> tuple[str, tuple[int, ...]]:
        """Of one client's reply."""
        return self.client.values_spec(rows)

    def impossible(self, values: NDArray[Any], asked: Answers) -> str | None:
        """Of one client's reply."""
        return self.client.impossible(values, asked)


@dataclass(frozen=True)
class SummedVotes(NoisyVotes):
    """A trusted server sums one vote of each client and adds the noise. Unit: one client."""

    aggregate: ClassVar[str] = "plain"
    labels_sigma: ClassVar[float | None] = None
    sums_votes: ClassVar[bool] = True

    @property
    def client(self) -> Mechanism:
        """Gives the vote as it is."""
        return GivenVotes(self.classes, self.sigma)

    def combine(
        self, replies: Sequence[Answers], labels: Tensor | None, prior: Tensor | None,
        noise: NoiseSource,
    ) -> Answers:  # fmt: skip
        """The noisy histogram of the clients that answered.

        Args:
            replies: classes, int64 [B, clients of a node] each.
            labels: not read.
            prior: the student's prediction, float32 [B, K], where a top k is released.
            noise: the server's.
        """
        votes = torch.cat([reply.values for reply in replies], 1)
        counts = torch.zeros((len(votes), self.classes), dtype=torch.int64)
        counts.scatter_add_(1, votes, torch.ones_like(votes))
        present = replace(self, voters=votes.shape[1])
        return present.release(present.read(counts), prior, noise)


@dataclass(frozen=True)
class GivenVotes(Mechanism):
    """A client's vote, given to the trusted server that adds the noise. Unit: one client.

    Args:
        classes: K.
        sigma: of the noise that the server adds to each count, in votes.
    """

    sigma: float

    @property
    def name(self) -> str:
        """Its name in the configuration."""
        return "noisy_votes"

    @property
    def event(self) -> Release:
        """One histogram, as it leaves the server."""
        return VotesRelease(self.sigma)

    def facts(self) -> dict[str, object]:
        """Parameters, for the plan."""
        return {"mechanism": self.name, "sigma": self.sigma}

    def read(self, said: Tensor) -> Tensor:
        """Classes that the clients on a node name, int64 [B, clients]; what is none becomes 0."""
        return torch.where((said >= 0) & (said < self.classes), said, 0)

    def release(self, teacher: Tensor, prior: Tensor | None, noise: NoiseSource) -> Answers:
        """The votes as they are, int64 [B, clients]."""
        return Answers(self.read(teacher))

    def log_likelihood(self, answers: Answers) -> Tensor:
        """The server's mechanism knows it; a vote alone is not for the student."""
        raise UserError("privacy.unit: client; single votes are for the server's sum alone")

    def pair_loss(self, asked: Answers, world0: Tensor, world1: Tensor) -> PairLoss:
        """Against the server nothing is claimed."""
        differ = int((world0 != world1).any(1).sum())
        return PairLoss(len(asked), differ, open=differ > 0)

    def values_spec(self, rows: int) -> tuple[str, tuple[int, ...]]:
        """Whole numbers, as many a row as a node hosts clients."""
        return "iu", (rows, -1)

    def impossible(self, values: NDArray[Any], asked: Answers) -> str | None:
        """Votes are classes."""
        fits = not values.size or (values.min() >= 0 and values.max() < self.classes)
        return None if fits else f"votes that are not 0 to {self.classes - 1}"


def server_mechanism(mechanism: Mechanism) -> Combined | SummedVotes:
    """The same mechanism, known to be that of a federation's server.

    Raises:
        UserError: it is another route's.
    """
    if isinstance(mechanism, Combined | SummedVotes):
        return mechanism
    raise UserError(f"privacy.mechanism: {mechanism.name}; accepted with clients: route federated")
