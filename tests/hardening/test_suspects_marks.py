"""Waves, fingerprints and account marks against suspects that have them and that have not."""

import numpy as np
import pytest
import torch
from problem import KEY, base, drawn, trained
from scipy.stats import binom

from dpsd.defences import Cosine
from dpsd.errors import UserError
from dpsd.hardening.fingerprint import check_fingerprint, fingerprint
from dpsd.hardening.synthetic import answers_of, ordinary_copy
from dpsd.hardening.waves import wave_test


def test_a_wave_is_found_under_its_key_alone() -> None:
    b, defence = base(1_500), Cosine(0.1, 2.5)
    rng = torch.Generator().manual_seed(0)
    waved = defence(b.probabilities.double(), b.images, KEY, "")
    noisy = (waved.log() + torch.randn(waved.shape, generator=rng)).softmax(1)
    found = wave_test(noisy, b.probabilities, b.images, KEY, 2.5, keys=60)
    assert found.p_value < 1e-6 and found.exact_p_value == 1 / 61
    other = wave_test(noisy, b.probabilities, b.images, bytes(16), 2.5, keys=60)
    assert other.p_value > 1e-3
    away = wave_test(noisy, b.probabilities, b.images, KEY, 9.0, keys=60)
    assert away.p_value > found.p_value


def test_images_without_a_difference_claim_nothing() -> None:
    b = base(64)
    found = wave_test(b.probabilities.flip(0), b.probabilities, b.images[:1].repeat(64, 1, 1, 1),
                      KEY, 2.5, keys=20)  # fmt: skip
    assert found.p_value > 0.01 and found.exact_p_value > 0.1


def test_models_without_a_wave_are_seldom_claimed_whatever_the_key() -> None:
    b = base(500)
    suspects = [answers_of(trained(seed), b.images) for seed in (1, 2, 3, 4)]
    rng, p = np.random.default_rng(0), []
    for i in range(60):
        key = rng.bytes(16)
        test = wave_test(suspects[i % 4], b.probabilities, b.images, key, 2.5, keys=40, seed=i)
        p.append(test.p_value)
    for alpha in (0.05, 0.01):
        assert sum(v <= alpha for v in p) <= binom.ppf(0.999, len(p), alpha)


def test_boundary_points_lie_just_behind_the_boundary() -> None:
    b = base(80)
    points = fingerprint(b, 80)
    assert len(points.labels) > 40 and points.images.dtype == torch.uint8
    assert torch.equal(answers_of(b.student, points.images).argmax(1), points.labels)
    two = answers_of(b.student, points.images).topk(2, 1).values
    assert float((two[:, 0] - two[:, 1]).median()) < 0.1


def test_a_fingerprint_tells_the_student_from_independent_models() -> None:
    points = fingerprint(base(200), 200)
    independent = [trained(seed) for seed in (1, 2, 3, 4)]
    same = check_fingerprint(trained(0), points, independent)
    assert same.equal == same.n and same.p_value < 1e-2
    other = check_fingerprint(trained(5), points, independent)
    assert other.p_value > same.p_value
    with pytest.raises(UserError, match="independent models: 2; accepted: at least 3"):
        check_fingerprint(trained(0), points, independent[:2])


def test_a_copy_of_waved_answers_learns_the_wave() -> None:
    b = base(1_500)
    waved = Cosine(0.2, 2.5)(b.probabilities.double(), b.images, KEY, "").float()
    copy = ordinary_copy(b, 1, steps=300, answers=waved)
    images = drawn(1_500, 55)[0]
    found = wave_test(answers_of(copy, images), answers_of(b.student, images), images, KEY, 2.5)
    assert found.p_value < 1e-6
