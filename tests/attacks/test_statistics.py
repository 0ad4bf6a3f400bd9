"""Intervals against their definitions, a plain loop and scikit-learn."""

import math

import numpy as np
import pytest
from scipy.stats import binom, norm
from sklearn.metrics import roc_auc_score

from dpsd.attacks.statistics import auc, clopper_pearson

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("alpha", [0.025, 1e-6])
def test_clopper_pearson_has_its_tails(alpha):
    n = 200
    low, high = clopper_pearson([0, 3, 150, 200], n, alpha)
    assert low[0] == 0 and high[-1] == 1
    for k, lo, hi in zip((3, 150), low[1:3], high[1:3], strict=True):
        assert binom.sf(k - 1, n, lo) == pytest.approx(alpha, rel=1e-6)
        assert binom.cdf(k, n, hi) == pytest.approx(alpha, rel=1e-6)
    assert binom.cdf(0, n, high[0]) == pytest.approx(alpha, rel=1e-6)


def test_auc_is_the_probability_to_rank_a_member_higher():
    scores = np.round(RNG.normal(size=60), 1)
    member = RNG.random(60) < 0.4
    pairs = [(a > b) + 0.5 * (a == b) for a in scores[member] for b in scores[~member]]
    area, low, high = auc(scores, member)
    assert area == pytest.approx(np.mean(pairs)) and low < area < high
    wide = auc(scores, member, 0.999)
    assert wide[1] < low and wide[2] > high
    assert roc_auc_score(member, scores) == pytest.approx(area)
    sure = auc(np.where(member, 1.0, 0.0), member)
    assert sure[0] == 1.0 and 0.9 < sure[1] < 1.0


def test_the_interval_of_auc_covers():
    """Normal scores one standard deviation apart: AUC is Phi(1 / sqrt 2)."""
    truth, covered = norm.cdf(1 / math.sqrt(2)), 0
    member = np.arange(80) < 30
    for _ in range(400):
        _, low, high = auc(RNG.normal(size=80) + member, member)
        covered += low <= truth <= high
    assert 0.91 < covered / 400 < 0.99
