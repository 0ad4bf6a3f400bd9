import json
import math
from pathlib import Path

import numpy as np
import pytest
from scipy.special import ndtr

from dpsd.planning.votes import (
    ANSWERS,
    WORTH,
    at_answers,
    best_choice,
    correct_rate,
    effective_answers,
    expected_correct,
    figures_at,
    search,
    share_rows,
    stand_ins,
)
from dpsd.privacy.accounting import calibrate_votes

STAND_INS = stand_ins()
MNIST, FASHION_MNIST = STAND_INS["mnist"], STAND_INS["fashion_mnist"]
SHARDS = Path(__file__).parents[2] / "docs" / "results" / "shards"


@pytest.mark.parametrize("share", [0.5, 0.6, 0.95])
def test_two_classes_have_the_closed_form(share):
    n, sigma = 1000, 120.0
    gap = n * (2 * share - 1) / (math.sqrt(2) * sigma)
    assert correct_rate(share, 1 - share, n, sigma, 2) == pytest.approx(ndtr(gap), abs=1e-6)


def test_even_votes_are_a_guess():
    for k in (2, 3, 10, 100):
        assert correct_rate(1 / k, 1 / k, 500, 40.0, k) == pytest.approx(1 / k, abs=1e-6)


@pytest.mark.parametrize("sigma", [2.0, 5.0, 20.0])
def test_the_discrete_gaussian_by_naive_sums(sigma):
    """Exact on the integers, with ties broken evenly, for three classes."""
    counts = (22, 16, 12)
    reach = int(10 * sigma)
    k = np.arange(-reach, reach + 1)
    p = np.exp(-(k**2) / (2 * sigma**2))
    p /= p.sum()
    total = 0.0
    for noise, weight in zip(k, p, strict=True):
        own = counts[0] + noise
        under = [p[c + k < own].sum() for c in counts[1:]]
        level = [p[c + k == own].sum() for c in counts[1:]]
        (u1, u2), (l1, l2) = under, level
        total += weight * (u1 * u2 + (l1 * u2 + u1 * l2) / 2 + l1 * l2 / 3)
    found = correct_rate(counts[0] / 50, counts[1] / 50, 50, sigma, 3)
    assert found == pytest.approx(total, abs=2e-3)


def test_by_simulation_with_ten_classes():
    rng = np.random.default_rng(0)
    counts = np.array([300, 200] + [500 / 8] * 8)
    noisy = counts + rng.normal(0, 150, (200_000, 10))
    seen = (noisy.argmax(1) == 0).mean()
    assert correct_rate(0.3, 0.2, 1000, 150.0, 10) == pytest.approx(seen, abs=0.004)


def test_effective_answers():
    assert effective_answers(100, 1.0, 10) == 100
    assert effective_answers(100, 0.1, 10) == 0 == effective_answers(100, 0.05, 10)
    assert effective_answers(400, 0.75, 2) == pytest.approx(100)


def test_figures_between_rows_and_beyond():
    assert figures_at(MNIST, MNIST[2].rows_per_class) == MNIST[2]
    assert figures_at(MNIST, 1e6).first == MNIST[-1].first
    low, high = MNIST[1], MNIST[2]
    middle = figures_at(MNIST, math.sqrt(low.rows_per_class * high.rows_per_class))
    assert middle.right == pytest.approx((low.right + high.right) / 2)
    assert middle.first[3] == pytest.approx((low.first[3] + high.first[3]) / 2)


@pytest.mark.parametrize("table", STAND_INS.values(), ids=STAND_INS)
def test_the_table_is_what_was_measured(table):
    name = next(name for name, t in STAND_INS.items() if t is table)
    measured = [json.loads(path.read_text()) for path in SHARDS.glob(f"{name}-*.json")]
    measured.sort(key=lambda m: m["rows_per_teacher"])
    assert len(measured) == len(table) >= 5
    for row, m in zip(table, measured, strict=True):
        assert row.rows_per_class * m["classes"] == pytest.approx(m["rows_per_teacher"])
        assert (row.right, row.first, row.second) == (
            m["right"], tuple(m["first"]), tuple(m["second"]),
        )  # fmt: skip
        assert all(s <= f and f + s <= 1 for f, s in zip(row.first, row.second, strict=True))


def test_the_search_on_mnist():
    found = search(MNIST, rows=54_000, most=54_000, classes=10, epsilon=1.0, delta=1e-5)
    best = best_choice(found)
    assert 2000 <= best.shards <= 4000
    assert best.answers in ANSWERS
    exact, _ = calibrate_votes(1.0, 1e-5, best.answers)
    assert best.sigma == pytest.approx(exact, rel=2e-3)
    more = search(MNIST, rows=54_000, most=54_000, classes=10, epsilon=10.0, delta=1e-5)
    assert best_choice(more).correct > best.correct
    assert best_choice(more).student > best.student


def test_answers_are_doubled_while_that_is_worth_it():
    mu = 0.26805  # at epsilon 1, delta 1e-5: DESIGN section 4
    chosen = search(FASHION_MNIST, rows=54_000, most=54_000, classes=10, epsilon=1.0, delta=1e-5)
    for c in chosen[5:]:
        figures = figures_at(FASHION_MNIST, 5400 / c.shards)
        less = at_answers(figures, c.shards, 54_000, c.answers // 2, 10, mu)
        more = at_answers(figures, c.shards, 54_000, c.answers * 2, 10, mu)
        assert c.student - less.student > WORTH * 0.99
        assert more.student - c.student < WORTH * 1.01


def test_the_search_keeps_to_its_limits():
    arguments = {"classes": 10, "epsilon": 1.0, "delta": 1e-5}
    found = search(MNIST, rows=54_000, most=600, also=333, **arguments)
    assert [c.shards for c in found] == [10, 25, 50, 100, 250, 333, 500]
    assert not search(MNIST, rows=60, most=60, **arguments)
    few = search(MNIST, rows=1294, most=1294, **arguments)
    assert max(c.shards for c in few) == 100


@pytest.mark.parametrize("classes", [2, 3, 10, 1000])
def test_any_number_of_classes(classes):
    rates = [expected_correct(MNIST[0], 4000, sigma, classes) for sigma in (1e7, 500.0, 1.0)]
    assert rates[0] == pytest.approx(1 / classes, abs=1e-3)
    assert rates[0] < rates[1] < rates[2] <= 1 + 1e-9
    for row in share_rows(4000, 478.0, classes):
        assert row["correct_rival"] <= row["correct_even"] + 1e-9


def test_shares_against_noise():
    rows = share_rows(4000, 478.0, 10)
    assert [row["share"] for row in rows] == [0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95]
    first = rows[0]
    assert first["gap_even"] == pytest.approx(4000 * (0.4 - 0.6 / 9))
    assert first["gap_rival"] == pytest.approx(400)
    assert first["deviations_rival"] == pytest.approx(400 / (478 * math.sqrt(2)))
