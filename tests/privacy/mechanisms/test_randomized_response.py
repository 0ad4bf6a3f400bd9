import math

import numpy as np
import pytest
import torch
from mpmath import mp, mpf
from probabilities import simplex
from scipy.stats import chisquare

from dpsd.privacy.events import PureRelease
from dpsd.privacy.mechanisms.randomized_response import RandomizedResponse
from dpsd.privacy.noise import NoiseSource

K = 6
RANGE = 2**62


class ListedBits:
    """Stands in for a noise source: 62-bit draws that are given, shifted to 64 bits."""

    def __init__(self, draws):
        self.draws = np.array(draws, dtype=np.uint64) << np.uint64(2)

    def integers(self, shape):
        return self.draws.reshape(shape)


def release_places(m, true_place, draws, k, classes=K):
    """Places of the labels that given draws release, prior ranking being 0, 1, 2, ..."""
    rows = len(draws)
    prior = torch.linspace(classes, 1, classes).expand(rows, -1)
    teacher = torch.nn.functional.one_hot(torch.full((rows,), true_place), classes).double()
    answers = m.release(teacher, prior / prior.sum(1, keepdim=True), ListedBits(draws))
    if answers.size is not None:
        assert (answers.size == k).all()
    return answers.values.tolist()


def widths(m, true_place, k):
    """Exact number of 62-bit draws for each place, by bisection on the interval ends."""
    counts, start = [0] * k, 0
    while start < RANGE:
        place = release_places(m, true_place, [start], k)[0]
        low, high = start, RANGE  # place holds at low, not at high (or high is the end)
        while high - low > 1:
            middle = (low + high) // 2
            if release_places(m, true_place, [middle], k)[0] == place:
                low = middle
            else:
                high = middle
        counts[place] += high - start
        start = high
    return counts


@pytest.mark.parametrize("epsilon", [0.01, 1.0, 4.0, 30.0])
@pytest.mark.parametrize("k", [2, 4, K])
def test_rr_probabilities_are_exact_for_every_rank(epsilon, k):
    m = RandomizedResponse(K, epsilon, k)
    rows = [widths(m, true, k) for true in range(K)]
    with mp.workdps(60):
        e = mp.exp(mpf(epsilon))
        for true, row in enumerate(rows):
            assert sum(row) == RANGE
            for place, width in enumerate(row):
                stated = 1 / mpf(k) if true >= k else (e if place == true else 1) / (e + k - 1)
                assert abs(mpf(width) / RANGE - stated) < mpf(2) ** -44
            given = m.probabilities(true if true < k else None, k)
            np.testing.assert_allclose(given, np.array(row) / RANGE, rtol=0, atol=1e-15)
        for place in range(k):
            column = [row[place] for row in rows]
            assert mpf(max(column)) <= e * mpf(min(column))  # pure epsilon, no rounding error


@pytest.mark.parametrize("epsilon", [1e-6, 0.5, 3.0, 43.0, 100.0, 1000.0])
@pytest.mark.parametrize("k", [2, 10, 1000])
def test_rr_widths_never_exceed_epsilon(epsilon, k):
    p = RandomizedResponse(k, epsilon, uses_prior=False).probabilities(0, k)
    other = round(p[1] * RANGE)
    with mp.workdps(60):
        assert 0 < other <= RANGE // k + 2**20
        assert mpf(RANGE - (k - 1) * other) <= mp.exp(mpf(epsilon)) * other


def test_rr_plain_is_over_all_classes():
    m = RandomizedResponse(K, 1.0, uses_prior=False)
    for true in range(K):
        row = widths(m, true, K)
        e = math.e
        expected = [(e if place == true else 1) / (e + K - 1) for place in range(K)]
        np.testing.assert_allclose(np.array(row) / RANGE, expected, atol=1e-13)


@pytest.mark.parametrize(
    ("top_k", "uses_prior", "true"), [(3, True, 1), (3, True, 5), (None, True, 0), (None, False, 4)]
)
def test_rr_frequencies(top_k, uses_prior, true):
    rows = 100_000
    m = RandomizedResponse(K, 1.3, top_k, uses_prior)
    prior = torch.tensor([0.4, 0.25, 0.15, 0.1, 0.06, 0.04]).expand(rows, -1)
    teacher = torch.nn.functional.one_hot(torch.full((rows,), true), K).double()
    answers = m.release(teacher, prior, NoiseSource(b"frequencies"))
    k = K if answers.size is None else int(answers.size[0])
    counts = np.bincount(answers.values.numpy(), minlength=K)
    e = math.exp(1.3)
    stated = [(e if c == true else 1) / (e + k - 1) if true < k else 1 / k for c in range(k)]
    assert counts[k:].sum() == 0  # never outside of the support
    assert chisquare(counts[:k], rows * np.array(stated)).pvalue > 1e-5


@pytest.mark.parametrize("k", [2, 4])
def test_rr_true_class_outside_draws_uniformly_over_the_support_only(k):
    rows = 60_000
    prior = simplex(1, seed=7).float().expand(rows, -1)
    teacher = torch.nn.functional.one_hot(prior.argmin(1), K).double()
    answers = RandomizedResponse(K, 5.0, k).release(teacher, prior, NoiseSource(b"outside"))
    top = set(prior[0].topk(k).indices.tolist())
    assert set(answers.values.tolist()) == top
    counts = np.bincount(answers.values.numpy(), minlength=K)[sorted(top)]
    assert chisquare(counts).pvalue > 1e-5


@pytest.mark.parametrize("epsilon", [0.1, 1.0, 3.0, 10.0, 1000.0])
def test_rr_with_prior_picks_the_best_k(epsilon):
    prior = torch.cat([simplex(100, seed=1, spread=s) for s in (0.1, 1, 4)]).float()
    answers = RandomizedResponse(K, epsilon).release(simplex(300), prior, NoiseSource(b"k"))
    seen = set()
    for b, row in enumerate(prior.double().tolist()):
        ranked = sorted(row, reverse=True)
        gain = {k: sum(ranked[:k]) / (1 + (k - 1) * math.exp(-epsilon)) for k in range(2, K + 1)}
        k = int(answers.size[b])
        assert gain[k] >= max(gain.values()) - 1e-12
        seen.add(k)
        ranking = sorted(range(K), key=lambda c: -row[c])[:k]
        assert answers.support[b, :k].tolist() == ranking
        assert int(answers.values[b]) in ranking
    assert min(seen) >= 2


def test_rr_with_prior_takes_all_classes_where_nothing_is_known():
    prior = torch.full((1, K), 1 / K)
    assert int(RandomizedResponse(K, 0.5).release(prior, prior, NoiseSource()).size) == K


def test_rr_with_prior_never_takes_one_class():
    prior = torch.tensor([[1.0, 0, 0, 0, 0, 0]])
    m = RandomizedResponse(K, 0.5)
    assert int(m.release(prior, prior, NoiseSource()).size) == 2


@pytest.mark.parametrize(
    ("top_k", "uses_prior"), [(None, False), (None, True), (2, True), (4, True)]
)
@pytest.mark.parametrize("epsilon", [0.2, 1.0, 6.0, 1000.0])
def test_rr_log_likelihood_is_bayes(top_k, uses_prior, epsilon):
    m = RandomizedResponse(K, epsilon, top_k, uses_prior)
    prior = torch.cat([simplex(30, seed=2, spread=s) for s in (0.3, 2.0)]).float()
    answers = m.release(simplex(60), prior, NoiseSource(b"ll"))
    found = m.log_likelihood(answers).double().numpy()
    assert found.shape == (60, K)
    for b in range(60):
        if answers.support is None:
            support = list(range(K))
        else:
            support = answers.support[b, : int(answers.size[b])].tolist()
        k, label = len(support), int(answers.values[b])
        normal = math.log1p((k - 1) * math.exp(-epsilon))
        for c in range(K):
            # log of e^eps / (e^eps + k - 1), of 1 / (e^eps + k - 1), and of 1 / k
            inside = -normal if label == c else -epsilon - normal
            expected = inside if c in support else -math.log(k)
            assert found[b, c] == pytest.approx(expected, rel=1e-6, abs=1e-6)


def test_event():
    assert RandomizedResponse(K, 0.7).event == PureRelease(0.7)
