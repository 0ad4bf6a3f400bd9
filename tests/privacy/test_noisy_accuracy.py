"""An accuracy with noise: what the noise protects, and what the interval covers."""

import math
from fractions import Fraction

import numpy as np
import pytest
from scipy.stats import binom, binomtest, chisquare

from dpsd.errors import UserError
from dpsd.privacy.noise import NoiseSource
from dpsd.privacy.noisy_accuracy import (
    accuracy_interval,
    noise_at_least,
    noise_scale,
    noisy_hits,
)

DRAWS = 2000


def naive_mass(epsilon, reach):
    """Probability of -reach ... reach, from the definition alone."""
    mass = np.array([math.exp(-epsilon * abs(x)) for x in range(-reach, reach + 1)])
    return mass / mass.sum()


def sum_with_hits(p, rows, epsilon, reach):
    """Probability of hits + noise = -reach ... rows + reach."""
    return np.convolve(binom.pmf(np.arange(rows + 1), rows, p), naive_mass(epsilon, reach))


@pytest.mark.parametrize("epsilon", [0.3, 1.0, 4.0])
@pytest.mark.parametrize("seed", [None, b"hits"])
def test_the_noise_around_the_hits_has_the_stated_distribution(epsilon, seed):
    source = NoiseSource(seed)
    found = np.array([noisy_hits(700, epsilon, source) for _ in range(DRAWS)]) - 700
    reach = math.ceil(2 / epsilon)
    mass = naive_mass(epsilon, 60 * reach)
    cells = np.clip(np.arange(-60 * reach, 60 * reach + 1), -reach, reach) + reach
    counts = np.bincount(np.clip(found, -reach, reach) + reach, minlength=2 * reach + 1)
    assert chisquare(counts, np.bincount(cells, weights=mass) * DRAWS).pvalue > 1e-6


@pytest.mark.parametrize("epsilon", [0.01, 0.3, 1.0, 4.0])
def test_one_record_changes_no_probability_by_more_than_epsilon(epsilon):
    """One changed row makes the count 1 larger or smaller; some value attains the bound."""
    reach = min(12, round(8 / epsilon))  # differences of tails are exact enough there
    k = np.arange(-reach, reach + 1)
    mass = noise_at_least(k, epsilon) - noise_at_least(k + 1, epsilon)
    assert mass == pytest.approx(
        [(1 - math.exp(-epsilon)) / (1 + math.exp(-epsilon)) * math.exp(-epsilon * abs(x))
         for x in k], rel=1e-5,
    )  # fmt: skip
    logs = np.log(mass)
    assert np.abs(np.diff(logs)).max() == pytest.approx(epsilon, rel=1e-4)


@pytest.mark.parametrize("epsilon", [1e-9, 0.1, 1 / 3, 0.7, 1.0, 3.0, 49.0, 1e6])
def test_the_scale_is_never_too_small(epsilon):
    """1 / scale, exactly, is what a record is charged; the next float below would be too small."""
    scale = noise_scale(epsilon)
    assert 1 / Fraction(scale) <= Fraction(epsilon)
    assert 1 / Fraction(math.nextafter(scale, 0)) > Fraction(epsilon)


@pytest.mark.parametrize("k", [-7, -1, 0, 1, 2, 9])
def test_the_noise_at_least_k_by_a_naive_sum(k):
    mass = naive_mass(0.4, 200)
    assert float(noise_at_least(k, 0.4)) == pytest.approx(mass[200 + k :].sum(), rel=1e-12)


@pytest.mark.parametrize(
    ("p", "rows", "epsilon"),
    [(0.5, 20, 0.2), (0.5, 50, 1.0), (0.9, 50, 0.3), (0.99, 80, 1.0), (0.05, 40, 0.5),
     (1.0, 30, 0.5), (0.0, 30, 2.0), (0.7, 1, 1.0)],
)  # fmt: skip
@pytest.mark.parametrize("confidence", [0.8, 0.95])
def test_the_exact_coverage_is_at_least_the_confidence(p, rows, epsilon, confidence):
    reach = math.ceil(20 / epsilon)
    chances = sum_with_hits(p, rows, epsilon, reach)
    bounds = [accuracy_interval(y, rows, epsilon, confidence) for y in range(rows + 1)]
    nearest = np.clip(np.arange(-reach, rows + reach + 1), 0, rows)
    covered = [bounds[y][0] <= p <= bounds[y][1] for y in nearest]
    assert chances.sum() == pytest.approx(1) and chances @ covered >= confidence - 1e-8
    assert rows == 1 or any(bound != (0, 1) for bound in bounds)  # they say something


@pytest.mark.parametrize(("p", "rows", "epsilon"), [(0.93, 2000, 0.05), (0.98, 2000, 1.0)])
def test_simulated_coverage(p, rows, epsilon):
    source, draws = NoiseSource(b"coverage"), 400
    hits = np.random.default_rng(0).binomial(rows, p, draws)
    seen = [noisy_hits(int(h), epsilon, source) for h in hits]
    bounds = {y: accuracy_interval(y, rows, epsilon) for y in set(seen)}
    covered = sum(bounds[y][0] <= p <= bounds[y][1] for y in seen)
    assert covered >= binom.ppf(1e-3, draws, 0.95)


@pytest.mark.parametrize(("noisy", "rows", "epsilon"), [(13, 20, 0.5), (45, 50, 1.0), (0, 9, 2.0)])
def test_a_bound_leaves_its_tail(noisy, rows, epsilon):
    """At the bounds, the value or one beyond it has a probability of 2.5 % by a naive sum."""
    low, high = accuracy_interval(noisy, rows, epsilon)
    reach = math.ceil(40 / epsilon)
    if low > 0:
        above = sum_with_hits(low, rows, epsilon, reach)[reach + noisy :].sum()
        assert above == pytest.approx(0.025, rel=1e-5)
    below = sum_with_hits(high, rows, epsilon, reach)[: reach + noisy + 1].sum()
    assert below == pytest.approx(0.025, rel=1e-5)


@pytest.mark.parametrize(("hits", "rows"), [(0, 10), (7, 10), (10, 10), (9731, 10_000)])
@pytest.mark.parametrize("confidence", [0.9, 0.95])
def test_without_noise_to_speak_of_it_is_that_of_clopper_and_pearson(hits, rows, confidence):
    exact = binomtest(hits, rows).proportion_ci(confidence, method="exact")
    found = accuracy_interval(hits, rows, 60.0, confidence)
    assert found == pytest.approx((exact.low, exact.high), abs=1e-8)
    assert found[0] <= exact.low + 1e-10 and found[1] >= exact.high - 1e-10
    noisier = accuracy_interval(hits, rows, 0.2, confidence)
    assert noisier[0] <= found[0] and noisier[1] >= found[1]
    assert noisier[1] - noisier[0] > found[1] - found[0]


@pytest.mark.parametrize("epsilon", [0.05, 1.0, 60.0])
def test_values_outside_of_the_rows_give_bounds_of_an_accuracy(epsilon):
    for noisy, nearest in ((-1, 0), (-10_000, 0), (101, 100), (10_000, 100)):
        low, high = accuracy_interval(noisy, 100, epsilon)
        assert 0 <= low < high <= 1 and (low == 0 or high == 1)
        assert (low, high) == accuracy_interval(nearest, 100, epsilon)


@pytest.mark.parametrize("epsilon", [0.0, -1.0, 1e-10, math.inf, math.nan])
def test_a_bad_epsilon_is_refused(epsilon):
    with pytest.raises(UserError, match=r"^epsilon: .*; accepted: finite, from 1e-09$"):
        noisy_hits(5, epsilon, NoiseSource())
    with pytest.raises(UserError, match=r"^epsilon: "):
        accuracy_interval(5, 10, epsilon)


def test_bad_rows_and_confidence_are_refused():
    with pytest.raises(UserError, match=r"^rows: 0; accepted: from 1$"):
        accuracy_interval(0, 0, 1.0)
    for confidence in (0.0, 1.0, math.nan):
        with pytest.raises(UserError, match=r"^confidence: .*; accepted: above 0 and below 1$"):
            accuracy_interval(5, 10, 1.0, confidence)
