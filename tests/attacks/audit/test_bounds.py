"""Bounds from counts: their error, their ceiling, and the verdict beside the claim."""

import math

import numpy as np
import pytest
from scipy.stats import binom, norm

from dpsd.attacks.audit.bounds import (
    Bound,
    ceiling,
    chosen_on_half,
    epsilon_from_hits,
    two_world_bounds,
)


def test_the_ceiling_is_a_perfect_attacks_bound():
    n, alpha, delta = 500, 0.05, 1e-3
    sure = (alpha / 2) ** (1 / n)  # the lower bound of n hits in n, by its definition
    expected = math.log((sure - delta) / (1 - sure))
    assert ceiling(n, delta=delta, alpha=alpha) == pytest.approx(expected, rel=1e-9)
    world0, world1 = np.full(2 * n, -1.0), np.full(2 * n, 1.0)
    world0 += np.linspace(0, 1e-3, 2 * n)
    found = chosen_on_half(world0, world1, delta=delta, alpha=alpha)
    assert expected - 0.05 < found <= expected + 1e-9
    mu = ceiling(n, delta=0, alpha=alpha, mu=True)
    assert mu == pytest.approx(2 * norm.ppf(sure), rel=1e-9)


@pytest.mark.parametrize("mu", [False, True])
def test_a_threshold_chosen_on_one_half_errs_as_rarely_as_it_says(mu):
    """Two equal worlds: any bound above 0 is wrong."""
    rng = np.random.default_rng(1)
    worlds = rng.normal(size=(2, 400, 300))
    found = chosen_on_half(*worlds, delta=0.0, alpha=0.05, mu=mu)
    assert binom.sf((found > 0).sum() - 1, 400, 0.05) > 1e-3
    # The maximum over all thresholds of the same draws, which is never taken, is wrong far more.
    hits = [(w[:, :, None] > w[0, None, :100]).sum(1) for w in worlds]
    assert (epsilon_from_hits(hits[0], 300, hits[1], 300, 0.0, 0.05).max(1) > 0).mean() > 0.1


def test_a_threshold_in_the_tail_is_found():
    """World 1 has a rare event of its own; at 0 nothing is to be seen."""
    rng = np.random.default_rng(2)
    world0, world1 = rng.normal(size=(2, 20_000))
    world1[rng.random(20_000) < 0.02] = 30.0
    assert chosen_on_half(world0, world1, delta=1e-5, alpha=0.05) > 3
    at_zero = epsilon_from_hits((world0 > 0).sum(), 20_000, (world1 > 0).sum(), 20_000, 0, 0.05)
    assert at_zero < 0.2


def test_a_lucky_tail_of_the_first_half_is_not_chosen():
    """A mu twice the claim: by the largest bound of the first half about one in 20 is missed."""
    rng, mu = np.random.default_rng(5), 0.54
    worlds = [rng.normal(sign * mu**2 / 2, mu, (200, 8000)) for sign in (-1, 1)]
    found = chosen_on_half(*worlds, delta=0.0, alpha=0.05, mu=True)
    assert (found <= mu / 2).mean() <= 0.015 and (found > mu).mean() <= 0.05


def test_many_audits_are_single_ones():
    rng = np.random.default_rng(3)
    world0, world1 = rng.normal(size=(5, 400)), rng.normal(1, 1, size=(5, 400))
    together = chosen_on_half(world0, world1, delta=1e-5, alpha=0.05)
    alone = [
        float(chosen_on_half(a, b, delta=1e-5, alpha=0.05))
        for a, b in zip(world0, world1, strict=True)
    ]
    assert together.tolist() == pytest.approx(alone)
    assert min(alone) > 0


@pytest.mark.parametrize(
    ("value", "top", "claimed", "verdict"),
    [
        (1.2, 5.0, 1.0, "violated"),
        (0.8, 5.0, 1.0, "consistent"),
        (0.8, 0.9, 1.0, "no power"),
        (4.9, 5.0, math.inf, "no power"),
        (4.9, 5.0, None, "not claimed"),
    ],
)
def test_verdicts(value, top, claimed, verdict):
    bound = Bound("m", "epsilon", "record", value, top, claimed, 1e-5, 0.95, 100)
    assert bound.verdict == verdict
    assert "per record" in bound.text()
    assert bound.facts()["claimed_infinite"] == (claimed == math.inf)


def test_the_form_of_gaussian_dp_stands_beside_the_other():
    rng = np.random.default_rng(4)
    mu = 1.0
    worlds = rng.normal(-(mu**2) / 2, mu, 40_000), rng.normal(mu**2 / 2, mu, 40_000)
    plain, gaussian = two_world_bounds(
        *worlds, unit="answer", delta=1e-5, claimed=4.4, claimed_mu=mu / 2
    )
    assert (plain.quantity, gaussian.quantity) == ("epsilon", "mu")
    assert gaussian.verdict == "violated" and plain.verdict == "consistent"
    assert 0.88 < gaussian.value < 1.0
    assert gaussian.facts()["implied_epsilon"] > plain.value
