"""Variants of earlier queries: even over classes, seeded, and new."""

import torch

from dpsd.generator.recombine import Pool, recombine


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
    pool = Pool()
    pool.add(torch.cat([_filled(60, 900), _filled(200)]), torch.tensor([3] * 900 + [7] * 40))
    bright = pool.draw(2000, torch.Generator().manual_seed(0)).float().mean((1, 2, 3)) > 115
    assert 0.42 < bright.double().mean() < 0.55  # contrast moves a few across


def test_a_class_of_few_images_does_not_breed_yet():
    pool = Pool()
    assert pool.draw(5, torch.Generator()) is None
    pool.add(_filled(10, 19), torch.zeros(19, dtype=torch.int64))
    assert pool.draw(5, torch.Generator()) is None
    pool.add(_filled(10, 1), torch.zeros(1, dtype=torch.int64))
    assert len(pool.draw(5, torch.Generator())) == 5


def test_the_pool_keeps_the_newest_and_comes_back_whole():
    pool = Pool()
    for value in range(4):
        pool.add(_filled(value, 500), torch.zeros(500, dtype=torch.int64))
    kept = pool.images[0]
    assert len(kept) == 1000 and kept.amin() == 1 and kept.amax() == 3
    other = Pool()
    other.load_state_dict(pool.state_dict())
    drawn = [p.draw(30, torch.Generator().manual_seed(2)) for p in (pool, other)]
    assert torch.equal(*drawn)
