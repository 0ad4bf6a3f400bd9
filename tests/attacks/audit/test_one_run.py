"""One-run auditing against the paper's own figures, known mechanisms, and brute force."""

import itertools
import math

import numpy as np
import pytest
from scipy.stats import binom

from dpsd.attacks.audit.one_run import (
    correct_guesses,
    flip_coins,
    lower_bound,
    one_run_bound,
    p_value,
)
from dpsd.errors import UserError


@pytest.mark.parametrize(
    ("slots", "guesses", "correct", "delta", "published"),
    [(1000, 100, 75, 1e-4, 0.673), (100_000, 1510, 1439, 1e-5, 2.675)],
)
def test_figures_of_the_paper(slots, guesses, correct, delta, published):
    """arXiv 2305.08846v1, appendix D and section 7, at 95 % confidence."""
    assert lower_bound(slots, guesses, correct, delta) == pytest.approx(published, abs=2e-3)


def test_pure_dp_is_the_binomial_of_randomised_response():
    """Randomised response of each slot on its own attains the bound."""
    epsilon, slots = 1.3, 8
    keep = math.exp(epsilon) / (1 + math.exp(epsilon))
    for correct in range(slots + 1):
        exact = sum(
            math.prod(keep if hit else 1 - keep for hit in hits)
            for hits in itertools.product((0, 1), repeat=slots)
            if sum(hits) >= correct
        )
        assert p_value(slots, slots, correct, epsilon, 0.0) == pytest.approx(exact)


def test_a_mechanism_that_tells_all_with_chance_delta():
    """It is (0, delta)-DP for each slot: all m are right with chance delta + (1 - delta) 2^-m."""
    slots, delta = 12, 1e-3
    truth = delta + (1 - delta) * 2.0**-slots
    assert p_value(slots, slots, slots, 0.0, delta) >= truth
    assert p_value(slots, slots, slots, 0.0, 0.0) < truth  # so the delta term is needed


def test_the_delta_term_by_its_definition():
    slots, guesses, correct, epsilon, delta = 50, 20, 15, 0.5, 1e-3
    keep = math.exp(epsilon) / (1 + math.exp(epsilon))
    w = [math.comb(guesses, k) * keep**k * (1 - keep) ** (guesses - k) for k in range(guesses + 1)]
    alpha = max(sum(w[correct - i : correct]) / i for i in range(1, correct + 1))
    expected = sum(w[correct:]) + 2 * slots * delta * alpha
    assert p_value(slots, guesses, correct, epsilon, delta) == pytest.approx(expected)


def test_bounds_err_as_rarely_as_they_say():
    rng = np.random.default_rng(0)
    slots, epsilon, wrong = 200, 1.0, 0
    for _ in range(400):
        coins = flip_coins(slots, rng)
        lie = rng.random(slots) > math.exp(epsilon) / (1 + math.exp(epsilon))
        scores = np.where(coins ^ lie, 1.0, -1.0)
        found = lower_bound(slots, slots, correct_guesses(scores, coins, slots), 0.0)
        wrong += found > epsilon
    assert binom.sf(wrong - 1, 400, 0.05) > 1e-3
    assert wrong > 0  # the bound is tight here


def test_guesses_are_the_surest():
    coins = np.array([True, False, True, False])
    scores = np.array([3.0, 2.0, -0.1, 0.0])
    assert [correct_guesses(scores, coins, r) for r in range(5)] == [0, 1, 1, 1, 2]


def test_coins_are_fair_and_their_own():
    coins = np.stack([flip_coins(64, np.random.default_rng(i)) for i in range(400)])
    assert abs(coins.mean() - 0.5) < 4 * 0.5 / math.sqrt(coins.size)
    assert np.abs(np.corrcoef(coins.T) - np.eye(64)).max() < 0.3


def test_the_bound_stands_beside_its_ceiling():
    coins = np.arange(100) % 2 == 0
    perfect = one_run_bound(
        np.where(coins, 1.0, -1.0), coins, 50, unit="record", delta=1e-5, claimed=1.0, of="student"
    )
    assert perfect.value == perfect.ceiling == lower_bound(100, 50, 50, 1e-5)
    assert perfect.verdict == "violated" and "student: 50 of 50" in perfect.method
    empty = one_run_bound(np.zeros(100), coins, 50, unit="record", delta=1e-5, claimed=1.0)
    assert empty.value == 0 and empty.verdict == "consistent"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: correct_guesses(np.zeros(3), np.zeros(2, bool), 1), "scores: "),
        (lambda: correct_guesses(np.zeros(2), np.zeros(2, bool), 3), "guesses: 3"),
        (lambda: p_value(10, 11, 5, 1.0, 0.0), "accepted: in this order"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(UserError, match=message):
        call()
