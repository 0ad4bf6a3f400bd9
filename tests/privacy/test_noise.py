import math

import numpy as np
import pytest
from scipy.stats import chisquare, kstest

from dpsd.privacy.noise import NoiseSource

N = 200_000


def test_seeded_stream_repeats_and_goes_on():
    first, second = NoiseSource(b"a"), NoiseSource(b"a")
    np.testing.assert_array_equal(first.normals((5, 3)), second.normals((5, 3)))
    ahead = first.integers((4,))
    np.testing.assert_array_equal(ahead, second.integers((4,)))
    assert not np.array_equal(ahead, first.integers((4,)))
    assert not np.array_equal(NoiseSource(b"b").integers((4,)), NoiseSource(b"a").integers((4,)))


def test_default_stream_is_fresh():
    assert not np.array_equal(NoiseSource().integers((4,)), NoiseSource().integers((4,)))


def test_default_key_comes_from_the_operating_system(monkeypatch):
    monkeypatch.setattr("os.urandom", lambda n: bytes(n))
    np.testing.assert_array_equal(NoiseSource().integers((4,)), NoiseSource().integers((4,)))


def test_ordinary_generators_do_not_matter():
    np.random.seed(0)
    first = NoiseSource().integers((4,))
    np.random.seed(0)
    assert not np.array_equal(first, NoiseSource().integers((4,)))


def test_integers_are_uniform_in_every_byte():
    integers = NoiseSource(b"bytes").integers((N,))
    for byte in integers.view(np.uint8).reshape(N, 8).T:
        assert chisquare(np.bincount(byte, minlength=256)).pvalue > 1e-6


def test_normals_have_the_standard_normal_distribution():
    x = NoiseSource(b"normals").normals((N,))
    # Sampling deviations of mean, variance, skewness and excess kurtosis: 1, 2, 6 and 24 over N.
    moments = [x.mean(), (x**2).mean() - 1, (x**3).mean(), (x**4).mean() - 3]
    for moment, variance in zip(moments, [1, 2, 15, 96], strict=True):
        assert abs(moment) < 5 * np.sqrt(variance / N)
    assert kstest(x, "norm").pvalue > 1e-4
    assert abs(np.corrcoef(x[:-1], x[1:])[0, 1]) < 5 / np.sqrt(N)


@pytest.mark.parametrize("shape", [(0,), (0, 3), (2, 0), (7,), (2, 3, 4)])
def test_shapes(shape):
    assert NoiseSource().normals(shape).shape == shape
    assert NoiseSource().integers(shape).dtype == np.uint64


def test_extreme_bits_give_finite_symmetric_normals(monkeypatch):
    extreme = np.array([0, 2**64 - 1], dtype=np.uint64)
    source = NoiseSource()
    monkeypatch.setattr(source, "integers", lambda shape: extreme)
    low, high = source.normals((2,))
    assert np.isfinite([low, high]).all()
    assert high == -low
    assert 8 < high < 9


@pytest.mark.parametrize("sigma", [0.5, 2.3, 40.0])
@pytest.mark.parametrize("seed", [None, b"discrete"])
def test_discrete_gaussians_have_the_stated_distribution(sigma, seed):
    drawn = NoiseSource(seed).discrete_gaussians((50, 200), sigma)
    assert (drawn.dtype, drawn.shape) == (np.int64, (50, 200))
    reach = math.ceil(3 * sigma)
    x = np.arange(-20 * reach, 20 * reach + 1)
    mass = np.exp(-(x**2) / (2 * sigma**2))
    mass /= mass.sum()
    cut = np.clip(x, -reach, reach) + reach  # the tails in one cell each
    expected = np.bincount(cut, weights=mass) * drawn.size
    counts = np.bincount(np.clip(drawn.ravel(), -reach, reach) + reach, minlength=2 * reach + 1)
    assert chisquare(counts, expected).pvalue > 1e-6
    if seed is None:
        assert not np.array_equal(drawn, NoiseSource().discrete_gaussians((50, 200), sigma))
    else:
        assert np.array_equal(drawn, NoiseSource(seed).discrete_gaussians((50, 200), sigma))


@pytest.mark.parametrize("scale", [0.3, 0.7, 2.3, 40.0])
@pytest.mark.parametrize("seed", [None, b"discrete"])
def test_discrete_laplaces_have_the_stated_distribution(scale, seed):
    drawn = NoiseSource(seed).discrete_laplaces((50, 200), scale)
    assert (drawn.dtype, drawn.shape) == (np.int64, (50, 200))
    reach = math.ceil(2 * scale)
    x = np.arange(-50 * reach, 50 * reach + 1)
    mass = np.exp(-np.abs(x) / scale)
    mass /= mass.sum()
    cut = np.clip(x, -reach, reach) + reach  # the tails in one cell each
    expected = np.bincount(cut, weights=mass) * drawn.size
    counts = np.bincount(np.clip(drawn.ravel(), -reach, reach) + reach, minlength=2 * reach + 1)
    assert expected.min() > 0.2
    assert chisquare(counts, expected).pvalue > 1e-6
    if seed is None:
        assert not np.array_equal(drawn, NoiseSource().discrete_laplaces((50, 200), scale))
    else:
        assert np.array_equal(drawn, NoiseSource(seed).discrete_laplaces((50, 200), scale))


def test_the_tails_of_discrete_laplaces_fall_off_as_stated():
    """Beyond the cells of the chi-square test; both signs alike."""
    drawn = NoiseSource(b"tails").discrete_laplaces((N,), 3.0)
    q = math.exp(-1 / 3)
    for k in (1, 9, 18, 24):
        expected = q**k / (1 + q) * N
        for seen in ((drawn >= k).sum(), (drawn <= -k).sum()):
            assert abs(seen - expected) < 5 * math.sqrt(expected)


def test_extreme_bits_give_finite_symmetric_laplaces(monkeypatch):
    extreme = np.array([0, 1, 2**64 - 2, 2**64 - 1], dtype=np.uint64)
    source = NoiseSource(b"")
    monkeypatch.setattr(source, "integers", lambda shape: extreme)
    low, high, *none = source.discrete_laplaces((4,), 2.0**56)
    assert high == -low and 36 < high / 2.0**56 < 38
    assert max(abs(x) for x in none) < 2**20
