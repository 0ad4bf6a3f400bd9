"""The mechanism that a configuration asks for, with the noise that its budget needs."""

import math
from dataclasses import replace
from typing import TYPE_CHECKING

from dpsd.config import Config
from dpsd.errors import UserError
from dpsd.privacy import accounting
from dpsd.privacy.accounting import calibrate_votes
from dpsd.privacy.mechanisms.base import Mechanism, NoMechanism
from dpsd.privacy.mechanisms.federated import Combined
from dpsd.privacy.mechanisms.gaussian import Gaussian
from dpsd.privacy.mechanisms.graded_response import GradedResponse, least_epsilon
from dpsd.privacy.mechanisms.group_response import GroupResponse
from dpsd.privacy.mechanisms.randomized_response import RandomizedResponse
from dpsd.privacy.mechanisms.votes import NoisyVotes

if TYPE_CHECKING:
    from dpsd.config import Config


def _votes(config: Config, classes: int) -> NoisyVotes:
    p, answers = config.privacy, config.answers()
    voters = config.federated.clients if p.unit == "client" else config.teacher.shards
    assert p.epsilon is not None and voters is not None
    if p.threshold is None:
        sigma, _ = calibrate_votes(p.epsilon, p.delta, answers)
        return NoisyVotes(classes, voters, sigma, p.top_k)
    histograms = answers if p.threshold_answers is None else min(p.threshold_answers, answers)
    sigma, test = calibrate_votes(p.epsilon, p.delta, histograms, answers, p.threshold_share)
    return NoisyVotes(classes, voters, sigma, p.top_k, p.threshold, test, histograms)


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
            epsilon=p.epsilon / p.asks_per_image,
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


def federated_mechanism(config: "Config", inner: Mechanism) -> Mechanism:
    """The server's mechanism.

    Args:
        config: with route federated.
        inner: what the privacy section alone gives, as for one teacher or one ensemble.
    """
    p, f = config.privacy, config.federated
    answers = config.answers()
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
