"""P-values against sums written out, and against simulated models that saw no mark."""

import math

import numpy as np
import pytest
from scipy.stats import binom

from dpsd.errors import UserError
from dpsd.hardening.statistics import (
    BOUND_WRONG,
    bounded_p_value,
    key_p_value,
    least_p_value,
    mark_p_value,
    model_p_value,
    models_for,
    permutation_p_value,
    rate_bound,
)

ALPHAS = (0.05, 0.01)
MODELS = 200


def tail(hits: int, n: int, rate: float) -> float:
    return sum(math.comb(n, i) * rate**i * (1 - rate) ** (n - i) for i in range(hits, n + 1))


def holds(p_values: list[float]) -> bool:
    """No more false claims than the binomial 99.9 % quantile."""
    assert len(p_values) == MODELS
    return all(sum(p <= a for p in p_values) <= binom.ppf(0.999, MODELS, a) for a in ALPHAS)


def test_repeated_marks_have_the_binomial_tail() -> None:
    assert mark_p_value(5, 7, 10) == pytest.approx(tail(5, 7, 1 / 9))
    assert mark_p_value(0, 7, 10) == 1
    assert mark_p_value(9, 9, 10) == pytest.approx(9.0**-9)
    assert mark_p_value(9, 9, 2) == 1  # two classes: the only wrong answer says nothing


def test_the_bound_on_null_rates_is_clopper_and_pearson_s() -> None:
    bound = rate_bound(3, 1_000)
    assert tail(0, 1_000, bound) - tail(4, 1_000, bound) == pytest.approx(BOUND_WRONG, rel=1e-4)
    assert rate_bound(5, 5) == 1
    p = bounded_p_value(12, 20, 3, 1_000)
    assert p == pytest.approx(tail(12, 20, bound) + BOUND_WRONG)


def test_closed_forms_reach_below_a_millionth() -> None:
    rng = np.random.default_rng(0)
    assert mark_p_value(8, 8, 10) < 1e-6
    assert bounded_p_value(15, 20, 3, 1_000) < 1e-6
    assert model_p_value(990, 1_000, [4, 6, 5, 3, 5, 7, 4, 6, 5, 5]) < 1e-6
    others = rng.standard_normal(300).tolist()
    assert key_p_value(9.0, others) < 1e-6 and permutation_p_value(9.0, others) == 1 / 301
    assert permutation_p_value(2.0, [3.0, 2.0, 1.0]) == 3 / 4


@pytest.mark.parametrize("n", [1, 20, 500])
def test_no_p_value_is_below_the_least(n: int) -> None:
    """Against a search over models with equal rates, and draws of models with unlike ones."""
    rng = np.random.default_rng(3)
    for models in (3, 4, 6):
        equal = min(model_p_value(n, n, [c] * models) for c in range(n + 1))
        assert least_p_value(n, models) == pytest.approx(equal, rel=1e-9)
        for _ in range(100):
            draw = rng.integers(0, n + 1, models)
            assert model_p_value(n, n, draw.tolist()) >= equal * (1 - 1e-9)


def test_as_many_models_as_a_claim_can_be_made_with() -> None:
    # Half of 500 points, three models: t = log(1001) / sqrt(2 / 250.5 * 4 / 3), two degrees of
    # freedom, whose tail is (1 - t / sqrt(t^2 + 2)) / 2.
    t = math.log(1001) / math.sqrt(2 / 250.5 * 4 / 3)
    half = (1 - t / math.sqrt(t * t + 2)) / 2
    assert half == pytest.approx(1.1e-4, rel=0.05) and 1e-6 < least_p_value(500, 3) < half
    assert models_for(500, 1e-6) == 5 and models_for(500, 1e-4) == 4 and models_for(500, 0.5) == 3
    assert least_p_value(500, 4) > 1e-6 > least_p_value(500, 5)
    assert models_for(2, 1e-30) is None


def test_models_that_saw_no_mark_are_seldom_claimed() -> None:
    """Each null model has its own rate of errors and its own taste; the key is independent."""
    rng = np.random.default_rng(1)
    by_marks, by_models, by_keys = [], [], []
    for _ in range(MODELS):
        taste = rng.dirichlet(np.full(9, 0.3))  # which wrong classes the model prefers
        wrong = int(rng.binomial(60, rng.beta(2, 5)))
        named, drawn = rng.choice(9, wrong, p=taste), rng.integers(0, 9, wrong)
        by_marks.append(mark_p_value(int((named == drawn).sum()), wrong, 10))
        rates = 1 / (1 + np.exp(-rng.normal(-2, 0.7, 11)))
        hits = rng.binomial(400, rates)
        by_models.append(model_p_value(int(hits[0]), 400, hits[1:].tolist()))
        width = rng.gamma(8, 1 / 8, 201)  # keys differ in how much of a model they catch
        scores = rng.standard_normal(201) * width
        by_keys.append(key_p_value(float(scores[0]), scores[1:].tolist()))
    assert holds(by_marks) and holds(by_models) and holds(by_keys)
    assert any(p <= 0.05 for p in by_models) and any(p <= 0.05 for p in by_keys)


def test_a_bound_from_few_null_questions_is_conservative() -> None:
    rng = np.random.default_rng(2)
    hits, nulls = rng.binomial(50, 0.02, MODELS), rng.binomial(500, 0.02, MODELS)
    p = [bounded_p_value(int(h), 50, int(m), 500) for h, m in zip(hits, nulls, strict=True)]
    assert holds(p)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: mark_p_value(3, 2, 10), "repeated: 3 of 2; accepted: 0 to 2"),
        (lambda: bounded_p_value(1, 0, 0, 9), "hits: 1 of 0"),
        (lambda: model_p_value(1, 9, [1, 2]), "independent models: 2; accepted: at least 3"),
        (lambda: key_p_value(1.0, [0.0] * 19), "scores of random keys: 19; accepted: at least 20"),
    ],
)
def test_bad_input_is_one_line(call, says: str) -> None:
    with pytest.raises(UserError, match=says):
        call()
