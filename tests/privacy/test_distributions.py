import math

import numpy as np
import pytest
from dp_accounting import dp_event
from dp_accounting.pld.pld_privacy_accountant import PLDAccountant
from dp_accounting.privacy_accountant import NeighboringRelation

from dpsd.privacy.accounting import (
    calibrate_votes,
    compose_delta,
    compose_epsilon,
    gaussian_epsilon,
)
from dpsd.privacy.distributions import zcdp_delta, zcdp_epsilon
from dpsd.privacy.events import (
    DpSgdRelease,
    GaussianRelease,
    OpenRelease,
    PureRelease,
    VotesRelease,
)

DELTA = 1e-5
SGD = DpSgdRelease(1.3, 512 / 60_000, round(15 * 60_000 / 512))


@pytest.mark.parametrize("n", [16, 50, 256, 1000, 4096])
@pytest.mark.parametrize("mu", [0.2683, 0.5016, 2.0])
def test_votes_against_the_closed_form_of_the_continuous_gaussian(n, mu):
    votes = [(VotesRelease(math.sqrt(2 * n) / mu), n)]
    found = compose_epsilon(votes, DELTA)
    assert found == pytest.approx(gaussian_epsilon(mu, DELTA), rel=0.01)
    rho = n / votes[0][0].sigma ** 2
    assert found <= rho + 2 * math.sqrt(rho * math.log(1 / DELTA))  # Bun and Steinke 2016
    assert found <= zcdp_epsilon(rho, DELTA)


@pytest.mark.parametrize("sigma", [0.6, 1.0, 3.0])
def test_votes_against_a_sum_over_all_outcomes(sigma):
    """One histogram of which two counts move by one, in opposite directions."""
    x = np.arange(-60, 61)
    one, moved = (np.exp(-((x - m) ** 2) / (2 * sigma**2)) for m in (0, 1))
    one, moved = one / one.sum(), moved / moved.sum()
    back = np.exp(-((x + 1) ** 2) / (2 * sigma**2))
    here, there = np.outer(one, one), np.outer(moved, back / back.sum())
    for epsilon in (0.1, 1.0, 3.0):
        exact = np.maximum(0, here - math.exp(epsilon) * there).sum()
        found = compose_delta(epsilon, [(VotesRelease(sigma), 1)])
        assert exact <= found + 1e-12
        assert found == pytest.approx(exact, rel=0.01, abs=1e-9)


def test_one_count_costs_half_a_histogram():
    assert VotesRelease(3.0, cells=1).rho == VotesRelease(3.0).rho / 2
    tests = compose_epsilon([(VotesRelease(30.0, cells=1), 200)], DELTA)
    assert tests == pytest.approx(compose_epsilon([(VotesRelease(30.0), 100)], DELTA), abs=1e-6)


@pytest.mark.parametrize(
    ("epsilon", "n", "share"), [(1.0, 4096, 0), (10.0, 50, 0), (2.0, 1, 0), (1.0, 500, 0.2)]
)
def test_calibrated_noise_spends_the_budget_and_no_more(epsilon, n, share):
    sigma, labels = calibrate_votes(epsilon, DELTA, n, share)
    releases = [(VotesRelease(sigma), n)]
    assert (labels is None) == (share == 0)
    if labels is not None:
        releases.append((VotesRelease(labels), 1))
        assert 1 / labels**2 == pytest.approx(share * (1 / labels**2 + n / sigma**2))
    found = compose_epsilon(releases, DELTA)
    assert 0.999 * epsilon < found <= epsilon


def test_dp_sgd_in_both_relations():
    """The reference point of the design: multiplier 1.3, q = 512 / 60,000, 15 epochs."""
    replace = compose_epsilon([(SGD, 1)], DELTA)
    add = compose_epsilon([(SGD, 1)], DELTA, "add_or_remove_one")
    assert (add, replace) == (pytest.approx(1.28, abs=0.005), pytest.approx(2.29, abs=0.005))
    for relation, found in (("REPLACE_ONE", replace), ("ADD_OR_REMOVE_ONE", add)):
        theirs = PLDAccountant(NeighboringRelation[relation])
        one = dp_event.PoissonSampledDpEvent(SGD.sample_rate, dp_event.GaussianDpEvent(1.3))
        theirs.compose(one, SGD.steps)
        assert found == pytest.approx(theirs.get_epsilon(DELTA), rel=1e-9)


def test_votes_compose_with_anything():
    votes, gaussian = (VotesRelease(math.sqrt(200) / 0.3), 100), (GaussianRelease(1, 5), 4)
    both = compose_epsilon([votes, gaussian], DELTA)
    assert both == pytest.approx(gaussian_epsilon(0.5, DELTA), rel=0.01)  # 0.3^2 + 0.4^2
    pure = (PureRelease(0.5), 1)
    more = compose_epsilon([votes, gaussian, pure], DELTA)
    assert both < more <= both + 0.5 + 1e-3
    assert compose_epsilon([votes, (SGD, 1)], DELTA) > compose_epsilon([(SGD, 1)], DELTA)
    assert compose_epsilon([votes, (OpenRelease(), 1)], DELTA) == math.inf
    assert compose_epsilon([votes], 0) == math.inf


def test_a_ruinous_plan_still_gets_an_upper_bound():
    releases = [(VotesRelease(1.0), 10**5)]  # rho 100,000
    found = compose_epsilon(releases, DELTA)
    assert 1e5 < found < 1e5 + 2 * math.sqrt(1e5 * math.log(1 / DELTA))
    assert compose_delta(found, releases) == pytest.approx(DELTA, rel=1e-3)


@pytest.mark.parametrize("rho", [1e-4, 0.1, 10.0])
def test_zcdp_conversion_is_an_upper_bound_of_the_gaussian(rho):
    epsilon = zcdp_epsilon(rho, DELTA)
    exact = gaussian_epsilon(math.sqrt(2 * rho), DELTA)
    assert exact < epsilon < rho + 2 * math.sqrt(rho * math.log(1 / DELTA))
    assert zcdp_delta(rho, epsilon) == pytest.approx(DELTA, rel=1e-3)
