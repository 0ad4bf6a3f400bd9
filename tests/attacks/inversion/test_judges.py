"""The two judges, and the measures of likeness and memorisation."""

import numpy as np
import pytest
import torch

from dpsd.attacks.inversion.judges import neighbours_judge, train_judges
from dpsd.attacks.inversion.memorisation import (
    equal_pools,
    gap,
    gap_p_value,
    nearest,
    pool_distances,
    ssim,
)
from dpsd.config.sections import DataConfig
from dpsd.data.load import PrivateData, Split, load_data
from dpsd.errors import UserError


@pytest.fixture(scope="module")
def digits():
    return load_data(DataConfig(split="digits"))


def test_judges_know_digits_and_are_at_chance_on_shuffled_labels(digits):
    judges = train_judges({"cnn-small"}, digits.holdout, digits.test, steps=120, seed=0)
    assert judges.network_accuracy > 0.9 and judges.neighbours_accuracy > 0.9
    least = judges.network_accuracy + judges.neighbours_accuracy - 1
    assert least <= judges.both_accuracy <= judges.neighbours_accuracy
    order = torch.randperm(len(digits.holdout), generator=torch.Generator().manual_seed(0))
    shuffled = Split(digits.holdout.images, digits.holdout.labels[order])
    guess = neighbours_judge(shuffled)(digits.test.images)
    assert float((guess == digits.test.labels).float().mean()) < 0.4


def test_judge_architecture_is_another(digits, monkeypatch):
    from dpsd.attacks.inversion import judges

    seen, build = [], judges.build_model

    def spy(name, *args, **named):
        seen.append(name)
        return build(name, *args, **named)

    monkeypatch.setattr(judges, "build_model", spy)
    for used, wanted in (
        ({"cnn-small"}, "cnn-tiny"), ({"cnn-tiny", "cnn-small"}, "cnn"),
        ({"cnn-tiny", "cnn-small", "cnn"}, "resnet20"),
    ):  # fmt: skip
        judges.network_judge(used, digits.holdout, steps=1, seed=0)
        assert seen.pop() == wanted


def test_missing_scikit_learn_is_one_line(digits, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(UserError, match="judge J2: needs scikit-learn"):
        neighbours_judge(digits.holdout)


def test_ssim_is_that_of_a_naive_loop():
    rng = np.random.default_rng(0)
    x, y = rng.random((2, 1, 1, 12, 9))
    values = []
    for i in range(6):
        for j in range(3):
            a, b = x[0, 0, i : i + 7, j : j + 7].ravel(), y[0, 0, i : i + 7, j : j + 7].ravel()
            cov = np.cov(a, b)
            top = (2 * a.mean() * b.mean() + 1e-4) * (2 * cov[0, 1] + 9e-4)
            low = (a.mean() ** 2 + b.mean() ** 2 + 1e-4) * (cov[0, 0] + cov[1, 1] + 9e-4)
            values.append(top / low)
    found = ssim(torch.tensor(x), torch.tensor(y))
    assert found.tolist() == pytest.approx([np.mean(values)], abs=1e-6)
    assert float(ssim(torch.tensor(x), torch.tensor(x))[0]) == pytest.approx(1)


def test_distances_and_nearest_by_hand():
    images = torch.zeros(2, 2, 1, 8, 8, dtype=torch.uint8)  # two classes, two images each
    images[0, 1] = 255
    images[1, 0] = 51
    held = images.flip(1)
    labels = torch.tensor([0, 1, 0, 1])
    data = PrivateData(Split(images.flatten(0, 1), torch.tensor([0, 0, 1, 1])),
                       Split(held.flatten(0, 1), torch.tensor([0, 0, 1, 1])), None)  # fmt: skip
    pools = equal_pools(data, 2, seed=0)
    white = torch.full((1, 1, 8, 8), 255, dtype=torch.uint8)
    d = pool_distances(white.expand(4, -1, -1, -1), labels, pools)
    for half in (d[:, :2], d[:, 2:]):
        assert torch.allclose(half[0].sort().values, torch.tensor([0.0, 1.0]), atol=1e-6)
        assert torch.allclose(half[1].sort().values, torch.tensor([0.8, 1.0]), atol=1e-6)
    level, alike = nearest(white, labels[:1], pools)
    assert float(level[0]) == pytest.approx(100) and float(alike[0]) == pytest.approx(1)


def test_pools_are_equal_and_disjoint(digits):
    pools = equal_pools(digits, 30, seed=1)
    assert pools.train.shape == pools.held.shape == (5, 30, 1, 28, 28)
    seen = {x.numpy().tobytes() for x in pools.train.flatten(0, 1)}
    assert not any(x.numpy().tobytes() in seen for x in pools.held.flatten(0, 1))
    assert equal_pools(digits, 10**6, seed=1).train.shape[1] == 45  # the rarest held-out class


def test_gap_finds_copies_of_training_images_and_nothing_in_noise(digits):
    pools = equal_pools(digits, 40, seed=0)
    labels = torch.arange(5).repeat_interleave(8)
    for source, low, high in ((pools.train, 0.0, 0.0011), (pools.held, 0.9, 1.0)):
        copies = source[:, :8].flatten(0, 1)
        d = pool_distances(copies, labels, pools).double().numpy()
        assert low <= gap_p_value(d, labels.numpy()) <= high
    rng = np.random.default_rng(0)
    p = [gap_p_value(rng.random((40, 20)), labels.numpy(), permutations=99, seed=i)
         for i in range(60)]  # fmt: skip
    assert 0.3 < np.mean(p) < 0.7 and np.mean(np.array(p) <= 0.1) < 0.25  # uniform: 0.1 +- 0.04


def test_gap_p_value_is_that_of_a_naive_loop():
    rng = np.random.default_rng(3)
    labels = np.array([0, 0, 0, 1, 1])
    distances = rng.random((5, 8))
    distances[:, :4] -= 0.1
    observed, hits = gap(distances, labels)[0], 0
    for _ in range(3000):
        shuffled = distances.copy()
        for c in (0, 1):
            shuffled[labels == c] = distances[labels == c][:, rng.permutation(8)]
        hits += gap(shuffled, labels)[0] <= observed
    found = gap_p_value(distances, labels, permutations=3000)
    assert found == pytest.approx(hits / 3000, abs=0.035)  # 3 standard errors
    assert 0.02 < found < 0.6


def test_gap_by_hand():
    distances = np.array([[0.1, 0.5, 0.3, 0.4], [0.9, 0.8, 0.2, 0.7], [0.5, 0.5, 0.1, 0.9]])
    mean, gaps = gap(distances, np.array([0, 0, 1]))
    assert gaps.tolist() == pytest.approx([-0.2, 0.6, 0.4])
    assert mean == pytest.approx((0.2 + 0.4) / 2)  # class means weigh the same
