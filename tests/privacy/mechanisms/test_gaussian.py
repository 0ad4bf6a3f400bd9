import math

import numpy as np
import pytest
import torch
from probabilities import simplex
from scipy.stats import kstest

from dpsd.privacy.events import GaussianRelease
from dpsd.privacy.mechanisms.gaussian import Gaussian
from dpsd.privacy.noise import NoiseSource

K = 6
VECTORS = ["gradient", "probabilities", "onehot"]
BOUNDS = ["normalize", "clip"]


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
