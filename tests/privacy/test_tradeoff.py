import math

import numpy as np
import pytest
from scipy.stats import norm

from dpsd.errors import UserError
from dpsd.privacy.events import (
    DpSgdRelease,
    GaussianRelease,
    OpenRelease,
    PureRelease,
    VotesRelease,
)
from dpsd.privacy.tradeoff import highest_tpr, highest_tprs

SGD = DpSgdRelease(1.3, 512 / 60_000, 1758)
FAINT = (PureRelease(1e-9), 1)  # changes nothing but keeps the closed form away


def test_reference_points_of_gaussian_dp():
    """Phi(Phi^-1(0.01) + mu); mu 0.268 is eps 1 at delta 1e-5."""
    assert highest_tpr([(GaussianRelease(0.268, 1), 1)]) == pytest.approx(0.0198, abs=2e-4)
    assert highest_tpr([(GaussianRelease(1, 1), 4)]) == pytest.approx(0.3721, abs=2e-4)


@pytest.mark.parametrize("mu", [0.05, 0.5, 2.0, 6.0])
@pytest.mark.parametrize("fpr", [1e-4, 0.01, 0.3])
def test_the_envelope_of_all_epsilons_is_the_trade_off(mu, fpr):
    exact = norm.cdf(norm.ppf(fpr) + mu)
    assert highest_tpr([(GaussianRelease(mu, 1), 1)], fpr) == pytest.approx(exact, rel=1e-9)
    found = highest_tpr([(GaussianRelease(mu, 1), 1), FAINT], fpr)
    assert exact <= found + 1e-12
    assert found == pytest.approx(exact, rel=1e-5)


@pytest.mark.parametrize("epsilon", [0.1, 1.0, 3.0, 8.0])
@pytest.mark.parametrize("fpr", [0.001, 0.01, 0.5])
def test_pure_epsilon(epsilon, fpr):
    expected = min(math.exp(epsilon) * fpr, 1 - math.exp(-epsilon) * (1 - fpr))
    assert highest_tpr([(PureRelease(epsilon), 1)], fpr) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("mu", [0.2683, 2.0])
def test_votes_with_much_noise_are_gaussian(mu):
    votes = [(VotesRelease(math.sqrt(2 * 8192) / mu), 8192)]
    exact = norm.cdf(norm.ppf(0.01) + mu)
    found = highest_tpr(votes)
    assert exact < found == pytest.approx(exact, rel=1e-3)


def test_worlds_told_apart_backwards():
    """Calling members non-members: the trade-off of a symmetric mechanism is its own inverse."""
    releases = [(VotesRelease(4.0), 20), (GaussianRelease(1, 2), 2)]
    for fpr in (0.01, 0.2):
        tpr = highest_tpr(releases, fpr)
        assert 1 - highest_tpr(releases, 1 - tpr) == pytest.approx(fpr, rel=1e-3)


@pytest.mark.parametrize("relation", ["replace_one", "add_or_remove_one"])
def test_dp_sgd_grows_with_steps_and_rate_and_falls_with_noise(relation):
    def found(noise=2.0, rate=0.01, steps=500, fpr=0.01):
        return highest_tpr([(DpSgdRelease(noise, rate, steps), 1)], fpr, relation)

    base = found()
    assert 0.01 < base < 1
    assert found(steps=1000) > base
    assert found(rate=0.02) > base
    assert found(noise=3.0) < base
    assert base < found(fpr=0.02) < 2 * base


def test_one_training_is_told_apart_less_when_a_record_is_only_removed():
    assert highest_tpr([(SGD, 1)], relation="add_or_remove_one") < highest_tpr([(SGD, 1)])


def test_no_likelihood_ratio_test_beats_the_bound():
    """The best test there is, on draws of the noise itself, comes close and never passes it."""
    rng = np.random.default_rng(0)
    sigma, answers, mu, epsilon, pure = 3.0, 8, 0.8, 0.4, 3
    draws = 100_000
    support = np.arange(-40, 41)
    mass = np.exp(-(support**2) / (2 * sigma**2))
    keep = math.exp(epsilon) / (1 + math.exp(epsilon))

    def ratios(member):
        """Log likelihood ratios of everything released, one for each draw."""
        noise = rng.choice(support, (draws, 2 * answers), p=mass / mass.sum())
        ratio = ((2 * (noise + member) - 1) / (2 * sigma**2)).sum(1)
        ratio += mu * (rng.normal(size=draws) + mu * member) - mu**2 / 2
        same = rng.binomial(pure, keep if member else 1 - keep, draws)
        return ratio + epsilon * (2 * same - pure)

    outside, inside = ratios(0), ratios(1)
    releases = [
        (VotesRelease(sigma), answers), (GaussianRelease(mu, 1), 1), (PureRelease(epsilon), pure)
    ]  # fmt: skip
    for threshold in np.quantile(ratios(0), [0.9, 0.99, 0.999]):
        fpr, tpr = np.mean(outside > threshold), np.mean(inside > threshold)
        off_fpr, off_tpr = (4 * math.sqrt(p * (1 - p) / draws) for p in (fpr, tpr))
        assert tpr - off_tpr <= highest_tpr(releases, fpr + off_fpr)
        assert tpr + off_tpr >= highest_tpr(releases, fpr - off_fpr)


def test_nothing_and_everything():
    assert highest_tpr([], 0.03) == pytest.approx(0.03)
    assert highest_tpr([(OpenRelease(), 1), (SGD, 1)]) == 1.0
    assert highest_tpr([(OpenRelease(), 0), (PureRelease(1.0), 1)]) < 0.03
    assert highest_tpr([(VotesRelease(1.0), 10**5)]) == pytest.approx(1.0)  # a ruinous plan
    for fpr in (0.0, 1.0, -1.0, math.nan):
        with pytest.raises(UserError, match="fpr"):
            highest_tpr([(SGD, 1)], fpr)


@pytest.mark.parametrize(
    "releases",
    [
        [(PureRelease(1.0), 1)],
        [(PureRelease(1.0), 5)],
        [(PureRelease(1.0), 1), (GaussianRelease(1, 1), 1)],
        [(GaussianRelease(1, 1), 4)],
        [(VotesRelease(4.0), 20)],
    ],
)
def test_the_curve_bounds_and_is_near_the_rates(releases):
    fprs = [1e-4, 0.01, 0.3, 0.9]
    exact = [highest_tpr(releases, fpr) for fpr in fprs]
    for found, rate in zip(highest_tprs(releases, fprs), exact, strict=True):
        assert rate * (1 - 1e-6) <= found <= 1.1 * rate


def test_the_curve_of_an_open_release_bounds_nothing():
    assert highest_tprs([(OpenRelease(), 1)], [0.01, 0.5]) == [1.0, 1.0]
