import math

import numpy as np
import pytest
import torch

from dpsd.errors import UserError
from dpsd.privacy import near_duplicates as module
from dpsd.privacy.mechanisms.base import Answers
from dpsd.privacy.near_duplicates import DISTANCE, KEPT, kept_queries, near_duplicates
from dpsd.privacy.releases import keep_release, release_file


def drawn(n, shape=(1, 16, 16), seed=0):
    rng = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (n, *shape), dtype=torch.uint8, generator=rng)


def varied(n, shape=(2, 16, 16)):
    """A few pictures again and again, with block noise of up to about twice the distance."""
    rng = torch.Generator().manual_seed(1)
    base = drawn(n // 4, shape).float()[torch.randint(n // 4, (n,), generator=rng)]
    c, h, w = shape
    noise = torch.randn(n, 1, h // 2, w // 2, generator=rng).repeat_interleave(2, 2)
    scale = 16 * torch.rand(n, 1, 1, 1, generator=rng)
    images = base + scale * noise.repeat_interleave(2, 3).expand(n, c, h, w)
    return images.clamp(0, 255).round().to(torch.uint8)


def naive_near(images):
    """For each image, whether an earlier one is near: a double loop in float64."""
    n, c = images.shape[:2]
    x = images.numpy().astype(np.float64).reshape(n, c, 8, 2, 8, 2).mean((1, 3, 5)).round()
    return [
        any(math.sqrt(((x[i] - x[j]) ** 2).mean()) <= DISTANCE for j in range(i)) for i in range(n)
    ]


def test_against_a_double_loop():
    images = varied(300)
    expected = np.mean(naive_near(images))
    assert 0.2 < expected < 0.7
    found = near_duplicates([images], sampled=300)
    assert found.share == expected
    assert (found.distance, found.compared, found.sampled) == (DISTANCE, 300, 300)


@pytest.mark.parametrize(("level", "share"), [(100, 0.5), (108, 0.5), (92, 0.5), (109, 0.0)])
def test_the_distance_is_root_mean_square_grey_levels(level, share):
    images = torch.stack([torch.full((3, 28, 28), v, dtype=torch.uint8) for v in (100, level)])
    assert near_duplicates([images]).share == share


def test_channels_are_averaged():
    """Colours that differ and have the same grey are near."""
    images = torch.zeros(2, 3, 9, 9, dtype=torch.uint8)
    images[0, 0], images[1, 2] = 240, 240
    assert near_duplicates([images]).share == 0.5


@pytest.mark.parametrize("size", [1, 7, 300])
def test_batches_do_not_matter(size):
    images = varied(300)
    whole = near_duplicates([images], sampled=50)
    assert whole.sampled == 50
    assert near_duplicates(images.split(size), sampled=50) == whole


def test_small_chunks_do_not_matter(monkeypatch):
    images = varied(300)
    whole = near_duplicates([images], sampled=100)
    monkeypatch.setattr(module, "_CHUNK", 16)
    monkeypatch.setattr(module, "_BLOCK", 5)
    assert near_duplicates([images], sampled=100) == whole


def test_the_sample_is_uniform():
    """Only the last quarter repeats anything, so a sample of early queries would find less."""
    images = drawn(4000, (1, 8, 8))
    images[3000:] = images[:1000]
    assert near_duplicates([images], sampled=4000).share == 0.25
    share = near_duplicates(images.split(500), sampled=400).share
    assert abs(share - 0.25) < 4 * math.sqrt(0.25 * 0.75 / 400)


def test_memory_is_bounded(monkeypatch):
    """A repeat is found as long as the first is among the newest descriptors."""
    monkeypatch.setattr(module, "KEPT", 8)
    monkeypatch.setattr(module, "_CHUNK", 4)
    images = drawn(40)
    images[30] = images[24]
    assert near_duplicates([images]).share == 1 / 40
    images[30] = images[12]
    assert near_duplicates([images]).share == 0
    assert KEPT == 400_000


@pytest.mark.parametrize("count", [0, 1])
def test_fewer_than_two(count):
    found = near_duplicates([drawn(count), drawn(0)])
    assert (found.share, found.compared) == (None, count)


def test_kept_queries_come_in_order(tmp_path):
    images = drawn(9)
    for position in (1000, 0, 20):
        rows = images[position % 7 :][:2]
        keep_release(tmp_path, position, rows, Answers(torch.zeros(len(rows), 10)))
    expected = [images[p % 7 :][:2] for p in (0, 20, 1000)]
    found = list(kept_queries(tmp_path))
    assert len(found) == 3
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_a_damaged_release_is_named(tmp_path):
    keep_release(tmp_path, 5, drawn(2), Answers(torch.zeros(2, 10)))
    release_file(tmp_path, 5).write_bytes(b"no")
    with pytest.raises(UserError, match=r"000000000005\.safetensors: damaged"):
        list(kept_queries(tmp_path))
