"""What a federated run releases and guarantees: units, the server's and each client's mechanism.

One code path for three units. answer: each client privatises each of its answers itself. record:
each client releases noisy votes of its own ensemble. client: clients give their votes to a trusted
server, which sums them and adds noise for one client's replacement.
"""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from dpsd.errors import UserError
from dpsd.privacy import accounting
from dpsd.privacy.distributions import calibrate_votes
from dpsd.privacy.mechanisms import Answers, Mechanism
from dpsd.privacy.noise import NoiseSource
from dpsd.privacy.votes import NoisyVotes

if TYPE_CHECKING:
    from dpsd.config import Config
    from dpsd.privacy.plan import Plan

RELATIONS = {
    "answer": "two teachers of one client that agree on every image but one, where an image is the "
    "exact uint8 tensor that reaches the teacher",
    "none": "two teachers of one client that agree on every image but one",
    "record": "two worlds in which one row of one client's training data differs in content "
    "(replace-one)",
    "client": "two worlds in which everything that one client holds is replaced by anything else "
    "(replace-one client); which clients take part is public",
}
_UNTRUSTED = (
    "the server is not trusted: in each run the client's own oracle enforces its budget and its "
    "no-image-twice rule against it, and federated.runs in the client's own configuration says how "
    "many runs it answers"
)
TRUST = {
    "answer": f"each client holds its teacher and adds its own noise; {_UNTRUSTED}",
    "record": f"each client holds its data and teachers and adds its own noise; {_UNTRUSTED}",
    "client": "the server sees each client's votes and is trusted to add the noise and to keep "
    "the votes to itself; there is no secure aggregation, so that nothing is claimed against the "
    "server; readers of release/ are not trusted",
    "none": "nothing is privatised: the server sees every client's probabilities",
}


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
    def event(self) -> accounting.Release:
        """One client's answer: a unit lives with one client."""
        return self.inner.event

    @property
    def labels(self) -> accounting.Release | None:
        """One client's label histogram, once: a replaced record moves two counts by one."""
        return None if self.labels_sigma is None else accounting.VotesRelease(self.labels_sigma)

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
    def event(self) -> accounting.Release:
        """One histogram, as it leaves the server."""
        return accounting.VotesRelease(self.sigma)

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


def federated_mechanism(config: "Config", inner: Mechanism) -> Mechanism:
    """The server's mechanism.

    Args:
        config: with route federated.
        inner: what the privacy section alone gives, as for one teacher or one ensemble.
    """
    p, f = config.privacy, config.federated
    answers = config.queries_per_round() * config.loop.rounds
    if p.mechanism != "noisy_votes":
        return Combined(inner, f.clients, f.aggregate)
    assert p.epsilon is not None and isinstance(inner, NoisyVotes)
    if p.unit == "client":
        return inner
    if f.aggregate != "labels":
        return Combined(inner, f.clients, f.aggregate)
    # A label histogram differs in two counts by one, as two threshold tests of one count do.
    sigma, labels = calibrate_votes(p.epsilon, p.delta, answers, 2, f.labels_share)
    return Combined(replace(inner, sigma=sigma), f.clients, f.aggregate, labels)


def home_plan(plan: "Plan") -> "Plan":
    """The plan that a client's own oracle enforces."""
    mechanism = plan.mechanism
    if isinstance(mechanism, Combined):
        return replace(plan, mechanism=mechanism.inner)
    assert isinstance(mechanism, NoisyVotes)
    return replace(plan, mechanism=GivenVotes(mechanism.classes, mechanism.sigma))


def quorum(config: "Config") -> int:
    """Clients that must answer in each round."""
    return config.federated.quorum or config.federated.clients


def settings(config: "Config") -> str:
    """A short hash of all public settings that server and clients must agree on."""
    import hashlib
    import json

    privacy = config.privacy.model_dump(mode="json")
    f = config.federated
    facts = {"privacy": privacy, "clients": f.clients, "nodes": f.nodes,
             "aggregate": f.aggregate, "labels_share": f.labels_share,
             "shards": config.teacher.shards,
             "answers": config.queries_per_round() * config.loop.rounds}  # fmt: skip
    text = json.dumps(facts, sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
