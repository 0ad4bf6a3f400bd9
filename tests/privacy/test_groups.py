import itertools
import math

import numpy as np
import pytest
from dp_accounting.pld import privacy_loss_distribution as pld
from scipy.special import logsumexp
from scipy.stats import binom, norm

from dpsd.errors import UserError
from dpsd.privacy import distributions, groups
from dpsd.privacy.accounting import (
    compose_delta,
    compose_epsilon,
    gaussian_delta,
    gaussian_epsilon,
)
from dpsd.privacy.distributions import zcdp_epsilon
from dpsd.privacy.events import (
    DpSgdRelease,
    GaussianRelease,
    OpenRelease,
    PureRelease,
    VotesRelease,
)
from dpsd.privacy.groups import group_epsilon

DELTA = 1e-5
VOTES = (VotesRelease(190.0), 8192)
SGD = (DpSgdRelease(1.3, 512 / 60_000, 1758), 1)
SMALL = DpSgdRelease(1.0, 0.1, 1)
RELATIONS = ["replace_one", "add_or_remove_one"]


@pytest.mark.parametrize("relation", RELATIONS)
@pytest.mark.parametrize("releases", [[VOTES], [SGD], [VOTES, SGD], [(PureRelease(1.0), 3)]])
def test_a_group_of_one_is_the_composition(releases, relation):
    found = group_epsilon(releases, 1, DELTA, relation)
    assert found.epsilon == compose_epsilon(releases, DELTA, relation)
    assert found.bound == "loss distribution"


def test_the_mixture_of_one_record_is_the_subsampled_gaussian():
    counts = dict([SGD])
    removed, added = (distributions.epsilon(counts, DELTA, w, 1) for w in ("remove", "add"))
    assert max(removed, added) == pytest.approx(
        compose_epsilon([SGD], DELTA, "add_or_remove_one"), rel=1e-4
    )


def test_the_mixture_of_two_records_is_that_of_dp_accounting():
    one = pld.from_mixture_gaussian_mechanism(
        2.0, [0, 1, 2], binom.pmf([0, 1, 2], 2, 0.05), value_discretization_interval=1e-3
    )
    theirs = one.self_compose(100).get_epsilon_for_delta(DELTA)
    found = group_epsilon([(DpSgdRelease(2.0, 0.05, 100), 1)], 2, DELTA, "add_or_remove_one")
    assert found.epsilon == pytest.approx(theirs, rel=1e-3)
    assert found.bound == "loss distribution"


def mixture(x, k, rate, noise, sign=1):
    means = range(k + 1)
    return sum(binom.pmf(j, k, rate) * norm.pdf(x, sign * j, noise) for j in means)


@pytest.mark.parametrize("epsilon", [0.05, 0.5, 2.0])
def test_two_records_against_integration(epsilon):
    """One step over a line, two steps over a plane, in both directions."""
    for steps, points, error in ((1, 200_001, 1e-7), (2, 2001, 1e-4)):  # error of the sums
        x, dx = np.linspace(-9, 12, points, retstep=True)
        worlds = [(mixture(x, 2, 0.1, 1.0), norm.pdf(x))]
        if steps == 2:
            worlds = [(np.outer(f, f), np.outer(g, g)) for f, g in worlds]
        exact = max(
            np.maximum(0, here - math.exp(epsilon) * there).sum() * dx**steps
            for f, g in worlds
            for here, there in ((f, g), (g, f))
        )
        counts = {DpSgdRelease(1.0, 0.1, steps): 1}
        found = distributions.delta(counts, epsilon, "add_or_remove_one", 2)
        assert exact * (1 - error) <= found
        assert found == pytest.approx(exact, rel=1e-3, abs=1e-12)


@pytest.mark.parametrize("k", [2, 3, 5])
def test_replaced_records_that_pull_apart_stay_below_the_group_bound(k):
    """k records that all pull right against k that all pull left, over a line."""
    x, dx = np.linspace(-16, 16, 200_001, retstep=True)
    right, left = (mixture(x, k, 0.1, 1.0, sign) for sign in (1, -1))
    found = group_epsilon([(SMALL, 1)], k, DELTA)
    reached = np.maximum(0, right - math.exp(found.epsilon) * left).sum() * dx
    assert 0 < reached <= DELTA
    assert found.bound == "group bound"
    assert found.epsilon < 2.5 * group_epsilon([(SMALL, 1)], k, DELTA, RELATIONS[1]).epsilon


def k_steps(releases, k, relation):
    """The textbook group bound, by search over a fine grid."""
    for epsilon in np.linspace(0, 12, 601):
        delta = compose_delta(epsilon, releases, relation)
        if math.log(max(delta, 1e-300)) + logsumexp(epsilon * np.arange(k)) <= math.log(DELTA):
            return k * epsilon
    return math.inf


@pytest.mark.parametrize("relation", RELATIONS)
@pytest.mark.parametrize("releases", [[VOTES], [SGD], [VOTES, SGD]])
def test_more_records_are_protected_less_and_never_worse_than_by_steps(releases, relation):
    found = [group_epsilon(releases, k, DELTA, relation).epsilon for k in (1, 2, 5, 10)]
    assert all(a < b < math.inf for a, b in itertools.pairwise(found))
    assert found[1] > 2 * found[0]  # at a fixed delta
    assert found[1] <= k_steps(releases, 2, relation)


@pytest.mark.parametrize("k", [2, 5, 10])
@pytest.mark.parametrize(("sigma", "answers"), [(190.0, 8192), (4000.0, 10**5), (60.0, 100)])
def test_votes_with_much_noise_are_gaussian(sigma, answers, k):
    found = group_epsilon([(VotesRelease(sigma), answers)], k, DELTA)
    exact = gaussian_epsilon(k * math.sqrt(2 * answers) / sigma, DELTA)
    assert exact < found.epsilon * (1 + 1e-9)
    assert found.epsilon == pytest.approx(exact, rel=0.01)
    assert found.bound == "loss distribution"
    assert found.epsilon <= zcdp_epsilon(k**2 * answers / sigma**2, DELTA)


def test_a_ruinous_group_gets_the_zero_concentrated_bound():
    found = group_epsilon([(VotesRelease(5.0), 8192)], 10, DELTA).epsilon
    assert found == zcdp_epsilon(100 * 8192 / 25, DELTA)
    mu = 10 * math.sqrt(2 * 8192) / 5
    assert mu**2 / 2 < found < mu**2 / 2 + 5 * mu


def losses(shifts, sigma):
    """Losses times 2 sigma^2 of one histogram whose counts move so: whole numbers, and masses."""
    x = np.arange(-math.ceil(12 * sigma) - 4, math.ceil(12 * sigma) + 5)
    mass = np.exp(-(x**2) / (2 * sigma**2))
    first, total = 0, np.ones(1)
    for s in shifts:
        one = np.zeros(2 * s * (len(x) - 1) + 1)
        one[:: 2 * s] = mass / mass.sum()
        total, first = np.convolve(total, one), first + s * s - 2 * s * x[-1]
    return (first + np.arange(len(total))) / (2 * sigma**2), total


def partitions(k, most):
    if k == 0:
        return [[]]
    return [[a, *rest] for a in range(min(k, most), 0, -1) for rest in partitions(k - a, a)]


@pytest.mark.parametrize("sigma", [0.5, 1.0, 3.0])
@pytest.mark.parametrize("k", [2, 3, 4])
def test_no_other_move_of_k_votes_reveals_more(k, sigma):
    """The reason why k votes from one count to one other stand for all moves of k votes."""
    worst, mass = losses([k, k], sigma)
    for out, into in itertools.combinations_with_replacement(partitions(k, k), 2):
        other, other_mass = losses([*out, *into], sigma)
        for epsilon in (0.0, 0.3, 1.0, 3.0, 8.0, 20.0):
            here, there = (
                np.sum(-np.expm1(np.minimum(0, epsilon - a)) * m)
                for a, m in ((other, other_mass), (worst, mass))
            )
            assert here <= there + 1e-14
    for epsilon in (0.3, 3.0):
        exact = np.sum(-np.expm1(np.minimum(0, epsilon - worst)) * mass)
        found = distributions.delta({VotesRelease(sigma): 1}, epsilon, "replace_one", k)
        assert found == pytest.approx(exact, rel=5e-3)


@pytest.mark.parametrize("k", [2, 5])
def test_dp_sgd_without_sampling_is_gaussian(k):
    full, mu = [(DpSgdRelease(20.0, 1.0, 100), 1)], 0.5
    removed = group_epsilon(full, k, DELTA, "add_or_remove_one").epsilon
    assert removed == pytest.approx(gaussian_epsilon(k * mu, DELTA), rel=1e-3)
    exact = gaussian_epsilon(2 * k * mu, DELTA)
    assert exact < group_epsilon(full, k, DELTA).epsilon < 1.4 * exact


@pytest.mark.parametrize("worlds", ["remove", "add"])
def test_small_deltas_come_from_moments(worlds):
    """Far below what an FFT resolves; without sampling the Gaussian gives the truth."""
    curve = groups._log_curve({DpSgdRelease(20.0, 1.0, 100): 1}, worlds, 2)
    for target in (-30.0, -60.0):
        epsilon = groups._crossing(curve, target)
        assert gaussian_delta(epsilon, 1.0) <= math.exp(target)
        assert gaussian_delta(0.9 * epsilon, 1.0) > math.exp(target)


def test_moments_bound_the_distribution():
    counts, epsilons = dict([SGD]), (1.0, 2.0, 3.0)
    for worlds, k in (("replace_one", 1), ("remove", 3), ("add", 3)):
        moments = groups._moments(counts, worlds, k)
        order = groups._ALPHAS - 1
        for epsilon in epsilons:
            chernoff = math.exp(min(order * (moments - epsilon)))
            assert distributions.delta(counts, epsilon, worlds, k) < chernoff


def test_votes_and_dp_sgd_together_cost_more_than_each_and_less_than_their_sum():
    for k in (2, 10):
        both = group_epsilon([VOTES, SGD], k, DELTA).epsilon
        votes, trained = (group_epsilon([r], k, DELTA / 2).epsilon for r in (VOTES, SGD))
        assert max(votes, trained) < both < votes + trained


def test_closed_forms():
    gaussian = [(GaussianRelease(1.0, 4.0), 3), (GaussianRelease(0.5, 1.0), 1)]
    found = group_epsilon(gaussian, 3, DELTA)
    mu = 3 * math.sqrt(3 / 16 + 1 / 4)
    assert found.epsilon == pytest.approx(gaussian_epsilon(mu, DELTA), rel=1e-9)
    assert found.bound == "loss distribution"
    assert group_epsilon([(PureRelease(0.4), 2)], 3, 0).epsilon == pytest.approx(2.4)
    mixed = group_epsilon([VOTES, (PureRelease(0.01), 1), gaussian[1]], 2, DELTA).epsilon
    mu = 2 * math.sqrt(2 * 8192 / 190**2 + 1 / 4)
    assert gaussian_epsilon(mu, DELTA) < mixed < gaussian_epsilon(mu, DELTA) * 1.01 + 0.02


def test_what_has_no_bound():
    assert group_epsilon([(OpenRelease(), 1), SGD], 2, DELTA).epsilon == math.inf
    assert group_epsilon([SGD], 2, 0).epsilon == math.inf
    assert group_epsilon([VOTES], 2, 0).epsilon == math.inf
    assert group_epsilon([], 5, DELTA).epsilon == 0
    with pytest.raises(UserError, match="k: 0"):
        group_epsilon([VOTES], 0, DELTA)
    with pytest.raises(UserError, match="delta: 1"):
        group_epsilon([VOTES], 2, 1.0)
