"""Variants of earlier queries: even over classes, seeded, and new."""

import pytest
import torch

from dpsd.generator import recombine as module
from dpsd.generator.recombine import POOL_BYTES, Pool, parents_of_a_class, recombine

SHAPE = (1, 12, 10)


def _images(n: int, seed: int = 0, channels: int = 1) -> torch.Tensor:
    rng = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (n, channels, 12, 10), generator=rng, dtype=torch.uint8)


def _filled(value: int, n: int = 40) -> torch.Tensor:
    return torch.full((n, 1, 12, 10), value, dtype=torch.uint8)


def test_recombined_images_are_seeded_uint8_and_new():
    a, b = _images(64, channels=3), _images(64, 1, channels=3)
    first = recombine(a, b, torch.Generator().manual_seed(5))
    assert first.dtype == torch.uint8 and first.shape == a.shape
    assert torch.equal(first, recombine(a, b, torch.Generator().manual_seed(5)))
    assert not torch.equal(first, recombine(a, b, torch.Generator().manual_seed(6)))
    same = (first.flatten(1)[:, None] == torch.cat([a, b]).flatten(1)[None]).all(2)
    assert not same.any()


def test_rare_classes_breed_as_often_as_common_ones():
    pool = Pool(SHAPE, 10)
    pool.add(torch.cat([_filled(60, 900), _filled(200)]), torch.tensor([3] * 900 + [7] * 40))
    bright = pool.draw(2000, torch.Generator().manual_seed(0)).float().mean((1, 2, 3)) > 115
    assert 0.42 < bright.double().mean() < 0.55  # contrast moves a few across


def test_a_chunk_does_not_depend_on_who_makes_the_others():
    pool = Pool(SHAPE, 10)
    pool.add(torch.cat([_filled(60, 90), _filled(200)]), torch.tensor([3] * 90 + [7] * 40))

    def backwards(rows, pieces, work):
        made = [work(i) for i in reversed(range(pieces))]
        assert pieces == 3
        return torch.cat(made[::-1])

    whole = pool.draw(1200, torch.Generator().manual_seed(0))
    parts = pool.draw(1200, torch.Generator().manual_seed(0), backwards)
    assert torch.equal(whole, parts) and not torch.equal(whole[:100], whole[512:612])


def test_a_class_of_few_images_does_not_breed_yet():
    pool = Pool(SHAPE, 10)
    assert pool.draw(5, torch.Generator()) is None
    pool.add(_filled(10, 19), torch.zeros(19, dtype=torch.int64))
    assert pool.draw(5, torch.Generator()) is None
    pool.add(_filled(10, 1), torch.zeros(1, dtype=torch.int64))
    assert len(pool.draw(5, torch.Generator())) == 5


def test_the_pool_keeps_the_newest_and_comes_back_whole():
    pool = Pool(SHAPE, 10)
    for value in range(4):
        pool.add(_filled(value, 500), torch.zeros(500, dtype=torch.int64))
    kept = pool.images[0]
    assert len(kept) == 1000 and kept.amin() == 1 and kept.amax() == 3
    other = Pool(SHAPE, 10)
    other.load_state_dict(pool.state_dict())
    drawn = [p.draw(30, torch.Generator().manual_seed(2)) for p in (pool, other)]
    assert torch.equal(*drawn)


@pytest.mark.parametrize(
    ("shape", "classes", "kept"),
    [((3, 32, 32), 100, 1000), ((3, 224, 224), 100, 71), ((3, 224, 224), 1000, 7)],
)
def test_parents_of_large_images_are_fewer(shape, classes, kept):
    assert parents_of_a_class(shape, classes) == kept
    assert kept * classes * shape[0] * shape[1] * shape[2] <= POOL_BYTES


def test_the_pool_is_bounded_by_bytes_and_breeds_all_the_same(monkeypatch):
    monkeypatch.setattr(module, "POOL_BYTES", 7 * 10 * 120 + 119)
    pool = Pool(SHAPE, 10)
    for value in (50, 200, 100):
        for c in range(10):
            pool.add(_filled(value, 300), torch.full((300,), c))
    state = pool.state_dict()
    assert sum(images.nbytes for images in state.values()) == 7 * 10 * 120
    assert all(len(images.unique()) == 3 for images in state.values())  # of all rounds
    assert len(pool.draw(40, torch.Generator().manual_seed(0))) == 40
    monkeypatch.setattr(module, "POOL_BYTES", 10 * 120 - 1)
    pool = Pool(SHAPE, 10)
    pool.add(_filled(9), torch.zeros(40, dtype=torch.int64))
    assert pool.draw(5, torch.Generator()) is None  # not one of each class fits
