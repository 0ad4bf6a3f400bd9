"""The mechanism that a configuration asks for, with the noise that its budget needs."""

import math

from dpsd.config import Config
from dpsd.errors import UserError
from dpsd.privacy import accounting
from dpsd.privacy.accounting import calibrate_votes
from dpsd.privacy.mechanisms.base import Mechanism, NoMechanism
from dpsd.privacy.mechanisms.federated import Combined, SummedVotes
from dpsd.privacy.mechanisms.gaussian import Gaussian
from dpsd.privacy.mechanisms.graded_response import GradedResponse, least_epsilon
from dpsd.privacy.mechanisms.group_response import GroupResponse
from dpsd.privacy.mechanisms.randomized_response import RandomizedResponse
from dpsd.privacy.mechanisms.votes import NoisyVotes


def choose_mechanism(config: Config, classes: int) -> Mechanism:
    """The mechanism of the privacy section, as for one teacher or one ensemble.

    Raises:
        UserError: graded answers at an epsilon per ask that is too small for them.
    """
    p = config.privacy
    if p.mechanism == "none" or p.epsilon is None:
        return NoMechanism(classes)
    if p.mechanism == "noisy_votes":
        return _votes(config, classes)
    if p.mechanism == "randomized_response" and p.ask == "group":
        return GroupResponse(classes, p.epsilon / p.asks_per_image, p.prior == "student")
    if p.mechanism == "randomized_response" and p.ask == "graded":
        return _graded(GradedResponse(classes, p.epsilon / p.asks_per_image))
    if p.mechanism == "randomized_response":
        return RandomizedResponse(
            classes,
            p.epsilon / p.asks_per_image,
            top_k=p.top_k,
            uses_prior=p.prior == "student",
        )
    k = p.top_k or classes
    sensitivity = Gaussian(classes, 1.0, p.vector, p.bound, p.bound_norm, k).sensitivity
    mu = accounting.gaussian_mu(p.epsilon, p.delta) / math.sqrt(p.asks_per_image)
    return Gaussian(classes, sensitivity / mu, p.vector, p.bound, p.bound_norm, k)


def _graded(mechanism: GradedResponse) -> GradedResponse:
    if not mechanism.grades:
        raise UserError(
            f"privacy.epsilon: {mechanism.epsilon:g} per ask; accepted with ask graded and "
            f"{mechanism.classes} classes: from {least_epsilon(mechanism.classes):.3g}"
        )
    return mechanism


def _votes(config: Config, classes: int) -> NoisyVotes:
    p, voters = config.privacy, config.teacher.shards
    assert p.epsilon is not None and voters is not None
    sigma, _ = calibrate_votes(p.epsilon, p.delta, config.answers())
    return NoisyVotes(classes, voters, sigma, p.top_k)


def federated_mechanism(config: Config, classes: int) -> Combined | SummedVotes:
    """The server's mechanism, with route federated.

    Raises:
        UserError: as `choose_mechanism`.
    """
    p, f = config.privacy, config.federated
    if p.mechanism != "noisy_votes":
        return Combined(classes, choose_mechanism(config, classes), f.clients, f.aggregate)
    assert p.epsilon is not None
    share = f.labels_share if f.aggregate == "labels" else 0.0
    sigma, labels = calibrate_votes(p.epsilon, p.delta, config.answers(), share)
    if p.unit == "client":
        return SummedVotes(classes, f.clients, sigma, p.top_k)
    assert config.teacher.shards is not None
    votes = NoisyVotes(classes, config.teacher.shards, sigma, p.top_k)
    return Combined(classes, votes, f.clients, f.aggregate, labels)
