import math

import numpy as np
import pytest
import torch
from bounds import epsilon_bound, mu_bound
from scipy.stats import binom, norm

from dpsd.attacks.audit.mechanism import audit_mechanism
from dpsd.errors import UserError
from dpsd.privacy.accounting import gaussian_epsilon, gaussian_mu
from dpsd.privacy.mechanisms.base import NoMechanism
from dpsd.privacy.mechanisms.gaussian import Gaussian
from dpsd.privacy.mechanisms.randomized_response import RandomizedResponse
from dpsd.privacy.noise import NoiseSource

K, DRAWS, DELTA, STRICT, LOOSE = 10, 100_000, 1e-5, 1e-6, 0.05
SURE = torch.eye(K, dtype=torch.float64)
PRIOR = torch.tensor([0.5, 0.3, 0.05, 0.05, 0.04, 0.02, 0.01, 0.01, 0.01, 0.01])

RR = {
    "plain": {"uses_prior": False},
    "top-2": {"top_k": 2},
    "top-3": {"top_k": 3},
    "with-prior": {},
}
GAUSSIAN = {
    "onehot": {},
    "onehot-top-2": {"top_k": 2},
    "onehot-clip": {"bound": "clip", "bound_norm": 0.5},
    "probabilities": {"vector": "probabilities", "bound_norm": 2.0},
    "gradient": {"vector": "gradient"},
    "gradient-clip": {"vector": "gradient", "bound": "clip", "bound_norm": 0.5},
}


def worlds(mechanism):
    """Two teachers whose answers are as far apart as the sensitivity allows, and the prior."""
    if getattr(mechanism, "vector", "") == "gradient":  # opposite sides of the student
        return SURE[0], SURE[1], torch.tensor([0.5, 0.5] + [0.0] * (K - 2))
    return SURE[0], SURE[1], PRIOR


def scores(mechanism, name):
    world0, world1, prior = worlds(mechanism)
    noise = NoiseSource(f"audit {name}".encode())
    s = audit_mechanism(mechanism, world0, world1, prior, draws=DRAWS, noise=noise)
    return s.world0, s.world1


def gaussian(epsilon, kind):
    """The Gaussian that a plan makes for epsilon, and its mu."""
    options, mu = GAUSSIAN[kind], gaussian_mu(epsilon, DELTA)
    sensitivity = Gaussian(K, 1.0, **options).sensitivity
    return Gaussian(K, sensitivity / mu, **options), mu


# ---------------------------------------------------------------- the mechanisms


@pytest.mark.parametrize("epsilon", [1.0, 3.0])
@pytest.mark.parametrize("kind", RR)
def test_randomised_response_keeps_its_epsilon(kind, epsilon):
    drawn = scores(RandomizedResponse(K, epsilon, **RR[kind]), f"{kind} {epsilon}")
    assert epsilon_bound(*drawn, alpha=STRICT) <= epsilon
    assert epsilon_bound(*drawn, delta=DELTA, alpha=STRICT) <= epsilon
    assert epsilon_bound(*drawn, alpha=LOOSE) >= 0.7 * epsilon


@pytest.mark.parametrize("outside", [0, 1])
@pytest.mark.parametrize("kind", ["top-2", "top-3"])
def test_a_class_outside_the_support_tells_no_more(kind, outside):
    pair = [SURE[0], SURE[9]]
    m = RandomizedResponse(K, 1.0, **RR[kind])
    s = audit_mechanism(
        m, pair[outside], pair[1 - outside], PRIOR, draws=DRAWS, noise=NoiseSource(b"outside")
    )
    for threshold in (0.0, -0.5, 0.5):
        assert epsilon_bound(s.world0, s.world1, threshold, alpha=STRICT) <= 1.0


@pytest.mark.parametrize("epsilon", [1.0, 10.0])
@pytest.mark.parametrize("kind", GAUSSIAN)
def test_gaussian_keeps_its_epsilon_and_mu(kind, epsilon):
    mechanism, mu = gaussian(epsilon, kind)
    drawn = scores(mechanism, f"{kind} {epsilon}")
    assert mu_bound(*drawn, alpha=STRICT) <= mu
    assert mu_bound(*drawn, alpha=LOOSE) >= 0.7 * mu
    for threshold in (-mu, 0.0, mu):
        assert epsilon_bound(*drawn, threshold, DELTA, STRICT) <= epsilon


@pytest.mark.parametrize("kind", RR)
def test_doubled_epsilon_is_caught(kind):
    drawn = scores(RandomizedResponse(K, 2.0, **RR[kind]), f"doubled {kind}")
    assert epsilon_bound(*drawn, alpha=STRICT) > 1.0


@pytest.mark.parametrize("kind", GAUSSIAN)
def test_halved_noise_is_caught(kind):
    stated, mu = gaussian(1.0, kind)
    broken = Gaussian(K, stated.sigma / 2, **GAUSSIAN[kind])
    drawn = scores(broken, f"halved {kind}")
    assert mu_bound(*drawn, alpha=STRICT) > mu
    # Far from 0 the (eps, delta) form sees it too; this threshold is fixed beforehand.
    assert epsilon_bound(*drawn, 1.3, DELTA, STRICT) > 1.0


def test_uniform_draws_over_all_classes_outside_the_support_are_caught():
    """The known mistake in public code: a class outside the top k draws over all K."""

    class Leaky(RandomizedResponse):
        def release(self, teacher, prior, noise):
            answers = super().release(teacher, prior, noise)
            anywhere = torch.from_numpy((noise.integers((len(answers),)) % K).astype(np.int64))
            outside = ~(answers.support == teacher.argmax(1)[:, None]).any(1)
            return type(answers)(
                torch.where(outside, anywhere, answers.values), answers.support, answers.size
            )

    m = Leaky(K, 1.0, top_k=2)
    world0, world1 = (
        m.release(w.expand(DRAWS, -1), PRIOR.expand(DRAWS, -1), NoiseSource(b"leaky")).values
        for w in (SURE[0], SURE[9])
    )
    inside = [np.where(np.isin(v.numpy(), [0, 1]), -1.0, 1.0) for v in (world0, world1)]
    assert epsilon_bound(*inside, alpha=STRICT) > 5.0


def test_an_open_release_is_caught():
    s = audit_mechanism(NoMechanism(K), SURE[0], SURE[1], draws=10_000)
    assert epsilon_bound(s.world0, s.world1, alpha=STRICT) > 6.0


# ---------------------------------------------------------------- the bounds themselves


def test_scores_are_the_exact_log_likelihood_ratio():
    mechanism, mu = gaussian(2.0, "gradient")
    world0, world1 = scores(mechanism, "ratio")
    # Between worlds at full sensitivity it is normal with mean -+ mu^2 / 2 and deviation mu.
    for drawn, mean in ((world0, -(mu**2) / 2), (world1, mu**2 / 2)):
        assert drawn.mean() == pytest.approx(mean, abs=5 * mu / math.sqrt(DRAWS))
        assert drawn.std() == pytest.approx(mu, rel=0.02)
    labels = scores(RandomizedResponse(K, 0.7, uses_prior=False), "ratio")
    assert {round(float(x), 5) for x in np.unique(labels)} == {-0.7, 0.0, 0.7}


@pytest.mark.parametrize("alpha", [1e-6, 0.05])
@pytest.mark.parametrize(("hits0", "hits1"), [(30, 900), (0, 1000), (500, 500), (1, 2)])
def test_bounds_from_binomial_tails(hits0, hits1, alpha):
    """Clopper-Pearson by its definition: the tail of the binomial at the bound is alpha / 2."""
    n = 1000
    world0, world1 = (np.repeat([1.0, -1.0], [h, n - h]) for h in (hits0, hits1))

    def bisect(tail_above):
        low, high = 0.0, 1.0
        for _ in range(200):
            middle = (low + high) / 2
            low, high = (low, middle) if tail_above(middle) else (middle, high)
        return low

    fpr_hi = bisect(lambda p: binom.cdf(hits0, n, p) < alpha / 2)
    tpr_lo = bisect(lambda p: binom.sf(hits1 - 1, n, p) > alpha / 2)
    forward = (tpr_lo - DELTA) / fpr_hi
    backward = (1 - fpr_hi - DELTA) / (1 - tpr_lo)
    expected = max(0.0, *(math.log(r) for r in (forward, backward) if r > 0))
    found = epsilon_bound(world0, world1, 0.0, DELTA, alpha)
    assert found == pytest.approx(expected, abs=1e-9)
    mu = max(0.0, norm.ppf(tpr_lo) - norm.ppf(fpr_hi))
    assert mu_bound(world0, world1, 0.0, alpha) == pytest.approx(mu, abs=1e-9)


def test_both_directions_count():
    """A rare event of world 0 alone is seen through the complement."""
    rare = np.repeat([-1.0, 1.0], [1000, 99_000])
    never = np.ones(100_000)
    assert epsilon_bound(rare, never, alpha=STRICT) > 3
    assert epsilon_bound(never, rare, alpha=STRICT) == 0  # the scores point the other way


@pytest.mark.parametrize("constant", [-1.0, 1.0])
def test_scores_that_say_nothing(constant):
    same = np.full(1000, constant)
    assert epsilon_bound(same, same) == 0
    assert mu_bound(same, same) == 0


def test_the_bound_errs_as_rarely_as_it_says():
    rng = np.random.default_rng(0)
    epsilon, n = 1.0, 2000
    keep = math.e / (1 + math.e)
    above = 0
    for _ in range(400):
        world0 = np.where(rng.random(n) < 1 - keep, 1.0, -1.0)
        world1 = np.where(rng.random(n) < keep, 1.0, -1.0)
        above += epsilon_bound(world0, world1, alpha=0.05) > epsilon
    assert binom.sf(above - 1, 400, 0.05) > 1e-4


def test_mu_and_epsilon_agree_on_a_perfect_sample():
    """Quantiles of the two worlds in place of draws: mu is found, epsilon stays below."""
    quantiles = norm.ppf((np.arange(200_000) + 0.5) / 200_000)
    mu = 1.0
    world0, world1 = mu * quantiles - mu**2 / 2, mu * quantiles + mu**2 / 2
    assert mu_bound(world0, world1) == pytest.approx(mu, rel=0.02)
    assert epsilon_bound(world0, world1, 2.0, DELTA) <= gaussian_epsilon(mu, DELTA)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"world0": SURE[0, :3]}, r"world0: shape \[3\]; accepted: \[10\]"),
        ({"prior": None}, "prior: None"),
        ({"draws": 0}, "draws: 0"),
    ],
)
def test_bad_input(change, message):
    given = {"world0": SURE[0], "world1": SURE[1], "prior": PRIOR, "draws": 5} | change
    with pytest.raises(UserError, match=message):
        audit_mechanism(RandomizedResponse(K, 1.0), **given)
