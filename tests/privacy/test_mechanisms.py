import math

import numpy as np
import pytest
import torch
from mpmath import mp, mpf
from scipy.stats import chisquare, kstest

from dpsd.privacy.accounting import GaussianRelease, OpenRelease, PureRelease
from dpsd.privacy.mechanisms import Gaussian, NoMechanism, RandomizedResponse
from dpsd.privacy.noise import NoiseSource

K = 6
VECTORS = ["gradient", "probabilities", "onehot"]
BOUNDS = ["normalize", "clip"]
RANGE = 2**62


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Small tensors: threads would only wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def simplex(rows, classes=K, seed=0, spread=2.0):
    rng = torch.Generator().manual_seed(seed)
    return (spread * torch.randn(rows, classes, generator=rng, dtype=torch.float64)).softmax(1)


# ---------------------------------------------------------------- Gaussian: noise and shape


@pytest.mark.parametrize("vector", VECTORS)
@pytest.mark.parametrize("bound", BOUNDS)
@pytest.mark.parametrize("k", [1, 3, None])
def test_gaussian_noise_has_the_stated_distribution(vector, bound, k):
    rows, sigma = 30_000, 1.7
    m = Gaussian(K, sigma, vector, bound, 0.8, k)
    teacher, prior = simplex(1).expand(rows, -1), simplex(1, seed=1).float().expand(rows, -1)
    answers = m.release(teacher, prior, NoiseSource(f"{vector}{bound}{k}".encode()))
    before, _ = m.bounded(teacher[:1], prior[:1], None if k is None else answers.support[:1])
    noise = ((answers.values.double() - before) / sigma).numpy()
    n = noise.size
    assert abs(noise.mean()) < 5 / math.sqrt(n)
    assert abs(noise.var() - 1) < 5 * math.sqrt(2 / n)
    assert kstest(noise.ravel(), "norm").pvalue > 1e-5
    for column in noise.T:
        assert kstest(column, "norm").pvalue > 1e-5
    if noise.shape[1] > 1:
        off = np.corrcoef(noise.T) - np.eye(noise.shape[1])
        assert np.abs(off).max() < 5 / math.sqrt(rows)


@pytest.mark.parametrize("sigma", [0.01, 0.3, 1.0, 37.0])
def test_gaussian_releases_lie_on_the_rounding_grid(sigma):
    m = Gaussian(K, sigma)
    values = m.release(simplex(1000), None, NoiseSource(b"grid")).values
    assert values.dtype == torch.float32
    grid = 2.0 ** (math.floor(math.log2(sigma)) - 14)
    assert (values.double() / grid == (values.double() / grid).round()).all()
    assert grid < sigma / 8000


@pytest.mark.parametrize("k", [1, 2, 5])
@pytest.mark.parametrize("vector", VECTORS)
def test_gaussian_support_is_the_students_ranking(k, vector):
    prior = simplex(200, seed=3).float()
    first = Gaussian(K, 1.0, vector, top_k=k).release(simplex(200), prior, NoiseSource(b"a"))
    second = Gaussian(K, 1.0, vector, top_k=k).release(simplex(200, seed=9), prior, NoiseSource())
    assert torch.equal(first.support, second.support)  # whatever the teacher says
    for row, support in zip(prior.numpy(), first.support.numpy(), strict=True):
        assert list(support) == sorted(range(K), key=lambda c: -row[c])[:k]
    assert first.values.shape == (200, k)
    assert len(first) == 200


@pytest.mark.parametrize("bound", BOUNDS)
def test_zero_vector_stays_zero(bound):
    prior = torch.tensor([[0.5, 0.3, 0.2]])
    outside = torch.tensor([[0.0, 0.0, 1.0]])
    for vector in ("onehot", "probabilities"):
        m = Gaussian(3, 1.0, vector, bound, 2.0, top_k=1)
        assert torch.equal(m.bounded(outside, prior, torch.tensor([[0]]))[0], torch.zeros(1, 1))
    m = Gaussian(3, 1.0, "gradient", bound, 2.0)
    assert torch.equal(m.bounded(prior, prior, None)[0], torch.zeros(1, 3))


@pytest.mark.parametrize("vector", VECTORS)
@pytest.mark.parametrize("bound", BOUNDS)
@pytest.mark.parametrize("c", [0.3, 1.0, 5.0])
def test_bounded_vector_by_naive_loop(vector, bound, c):
    teacher, prior = simplex(50), simplex(50, seed=1).float()
    support = prior.topk(4).indices
    found = Gaussian(K, 1.0, vector, bound, c, 4).bounded(teacher, prior, support)[0]
    for b in range(50):
        p = teacher[b].numpy()
        whole = {
            "gradient": prior[b].double().numpy() - p,
            "probabilities": p,
            "onehot": np.eye(K)[p.argmax()],
        }[vector]
        v = whole[support[b].numpy()]
        norm = np.linalg.norm(v)
        if norm > 0:
            v = v * (c / norm if bound == "normalize" else min(1, c / norm))
        np.testing.assert_allclose(found[b].numpy(), v, atol=1e-12)


# ---------------------------------------------------------------- Gaussian: the true diameter


def widest_pair(m, k, restarts=48, steps=150):
    """Gradient ascent on the distance of two bounded vectors over p_t, p_t' and p_s."""
    rng = torch.Generator().manual_seed(0)
    start = torch.randn(3, restarts, K, generator=rng, dtype=torch.float64)
    start *= torch.linspace(0.1, 4, restarts, dtype=torch.float64)[:, None]
    logits = start.requires_grad_()
    optimizer = torch.optim.Adam([logits], lr=0.3)
    best = 0.0
    for _ in range(steps):
        first, second, prior = logits.softmax(2)
        support = None if k == K else prior.topk(k, dim=1).indices
        gap = m.bounded(first, prior, support)[0] - m.bounded(second, prior, support)[0]
        distance = gap.square().sum(1)
        best = max(best, float(distance.detach().max()))
        optimizer.zero_grad()
        (-distance.sum()).backward()
        logits.grad.nan_to_num_(0.0)
        optimizer.step()
    return math.sqrt(best)


def widest_corners(m, k):
    """All pairs of teachers that are sure of a class, which gradients cannot reach."""
    prior = simplex(1).expand(K, -1)
    support = None if k == K else prior.topk(k, dim=1).indices
    vectors = m.bounded(torch.eye(K, dtype=torch.float64), prior, support)[0]
    return float(torch.cdist(vectors, vectors).max())


@pytest.mark.slow
@pytest.mark.parametrize("vector", VECTORS)
@pytest.mark.parametrize("bound", BOUNDS)
@pytest.mark.parametrize("c", [0.6, 1.0, 3.0])
@pytest.mark.parametrize("k", [1, 2, K])
def test_sensitivity_is_the_true_diameter(vector, bound, c, k):
    m = Gaussian(K, 1.0, vector, bound, c, k)
    found = widest_corners(m, k)
    if vector != "onehot":
        found = max(found, widest_pair(m, k))
    assert found <= m.sensitivity + 1e-9
    assert found >= 0.99 * m.sensitivity


@pytest.mark.parametrize(
    ("vector", "bound", "c", "k", "expected"),
    [
        ("gradient", "normalize", 0.7, K, 1.4),
        ("gradient", "clip", 0.5, K, 1.0),
        ("gradient", "clip", 9.0, K, math.sqrt(2)),
        ("gradient", "clip", 9.0, 1, 1.0),
        ("probabilities", "normalize", 3.0, K, 3 * math.sqrt(2)),
        ("probabilities", "normalize", 3.0, 1, 3.0),
        ("onehot", "clip", 0.5, K, math.sqrt(0.5)),
        ("onehot", "clip", 9.0, 2, math.sqrt(2)),
    ],
)
def test_sensitivity_of_the_design(vector, bound, c, k, expected):
    m = Gaussian(K, 2.0, vector, bound, c, k)
    assert m.sensitivity == pytest.approx(expected)
    assert m.event == GaussianRelease(m.sensitivity, 2.0)
    assert m.facts()["sensitivity"] == m.sensitivity


# ---------------------------------------------------------------- Gaussian: log-likelihood


def naive_gaussian_scores(m, answers, prior):
    """-|r - v_c|^2 / 2 sigma^2 with v_c made by hand from a one-hot teacher of class c."""
    out = np.empty((len(answers), K))
    for b in range(len(answers)):
        support = range(K) if answers.support is None else answers.support[b].tolist()
        for c in range(K):
            onehot = np.eye(K)[c]
            v = prior[b].double().numpy() - onehot if m.vector == "gradient" else onehot
            v = v[list(support)]
            norm = np.linalg.norm(v)
            if norm > 0:
                v = v * (
                    m.bound_norm / norm if m.bound == "normalize" else min(1, m.bound_norm / norm)
                )
            r = answers.values[b].double().numpy()
            out[b, c] = -((r - v) ** 2).sum() / (2 * m.sigma**2)
    return out - out[:, :1]


@pytest.mark.parametrize("vector", VECTORS)
@pytest.mark.parametrize("bound", BOUNDS)
@pytest.mark.parametrize("c", [0.4, 1.0, 2.0])
@pytest.mark.parametrize("k", [1, 3, None])
def test_gaussian_log_likelihood_by_naive_loop(vector, bound, c, k):
    m = Gaussian(K, 0.9, vector, bound, c, k)
    prior = simplex(40, seed=5).float()
    answers = m.release(simplex(40), prior, NoiseSource(b"ll"))
    found = m.log_likelihood(answers)
    assert found.dtype == torch.float32
    assert found.shape == (40, K)
    relative = (found - found[:, :1]).double().numpy()
    np.testing.assert_allclose(relative, naive_gaussian_scores(m, answers, prior), atol=2e-5)


@pytest.mark.parametrize("k", [2, None])
def test_gaussian_posterior_is_the_frequency_of_the_true_class(k):
    """Bayes by counting: among draws with a like posterior, the class is as frequent as it says."""
    rows = 60_000
    belief = torch.tensor([0.4, 0.3, 0.2, 0.1])
    m = Gaussian(4, 0.8, top_k=k)
    rng = torch.Generator().manual_seed(1)
    true = torch.multinomial(belief, rows, replacement=True, generator=rng)
    teacher = torch.nn.functional.one_hot(true, 4).double()
    prior = belief.expand(rows, -1)
    answers = m.release(teacher, prior, NoiseSource(b"bayes"))
    posterior = (m.log_likelihood(answers) + belief.log()).softmax(1)
    for low in np.arange(0, 1, 0.1):
        inside = (posterior >= low) & (posterior < low + 0.1)
        claimed, was = posterior[inside].double().mean(), teacher[inside].mean()
        n = int(inside.sum())
        assert n < 100 or abs(claimed - was) < 5 * math.sqrt(0.25 / n)


# ---------------------------------------------------------------- randomised response


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


def test_events():
    assert RandomizedResponse(K, 0.7).event == PureRelease(0.7)
    assert NoMechanism(K).event == OpenRelease()


def test_no_mechanism_releases_the_teacher():
    p = simplex(20)
    answers = NoMechanism(K).release(p, None, NoiseSource())
    torch.testing.assert_close(
        NoMechanism(K).log_likelihood(answers).exp(), p.float(), rtol=1e-5, atol=1e-7
    )
