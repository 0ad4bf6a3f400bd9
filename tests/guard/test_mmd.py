"""MMD by random cosines: against the exact kernel, and what it tells apart."""

import numpy as np
import pytest

from dpsd.errors import UserError
from dpsd.guard.detection.mmd import FEATURES, fit_kernel, window_statistics

RNG = np.random.default_rng(0)
BENIGN = RNG.normal(size=(4_000, 8)).astype(np.float32)


def test_cosines_approach_the_gaussian_kernel():
    kernel = fit_kernel(BENIGN)
    x, y = BENIGN[:200], BENIGN[200:400]
    width = 1 / kernel.directions.std()
    exact = np.exp(-((x - y) ** 2).sum(1) / (2 * width**2))
    found = (kernel.map(x) * kernel.map(y)).sum(1)
    assert np.abs(found - exact).mean() < 3 / np.sqrt(FEATURES)
    distances = np.linalg.norm(x - y, axis=1)
    assert width == pytest.approx(np.median(distances), rel=0.1)


def test_a_sum_updated_question_by_question_gives_the_window():
    kernel = fit_kernel(BENIGN)
    total = np.zeros(FEATURES)
    for question in BENIGN[:64]:
        total += kernel.map(question[None])[0]
    whole = window_statistics(kernel, BENIGN[:64], 64)
    assert kernel.statistic(total, 64) == pytest.approx(whole[0], rel=1e-4)


def test_other_questions_are_told_apart_and_honest_ones_are_not():
    kernel = fit_kernel(BENIGN[:2_000])
    honest = window_statistics(kernel, RNG.normal(size=(6_400, 8)).astype(np.float32), 64)
    shifted = window_statistics(kernel, RNG.normal(1, 1, (640, 8)).astype(np.float32), 64)
    narrow = window_statistics(kernel, RNG.normal(0, 0.2, (640, 8)).astype(np.float32), 64)
    assert len(honest) == 100 and honest.mean() < 3
    assert min(shifted.min(), narrow.min()) > honest.max()


def test_references_that_are_too_small_or_all_alike():
    with pytest.raises(UserError, match="10 questions; accepted: at least 500"):
        fit_kernel(BENIGN[:10])
    with pytest.raises(UserError, match="all features are the same"):
        fit_kernel(np.ones((600, 4), np.float32))
