"""What an answer costs: honest accounts at most twice the base, extractors 100 times."""

import numpy as np
import pytest

from dpsd.errors import UserError
from dpsd.guard.proof_of_work.price import Information, honest_information, multiplier


def accounts(n, questions, rng, mean=0.2, between=0.03):
    """Honest accounts: exponential entropies about a mean of their own."""
    return [rng.exponential(max(0.01, m), questions) for m in rng.normal(mean, between, n)]


def test_the_spread_of_accounts_is_told_from_that_of_questions():
    rng = np.random.default_rng(0)
    groups = [rng.normal(m, 0.5, 100) for m in rng.normal(1.0, 0.1, 2_000)]
    found = honest_information(groups)
    assert found.mean == pytest.approx(1, abs=0.02)
    assert found.within == pytest.approx(0.5, abs=0.01)
    assert found.between == pytest.approx(0.1, abs=0.01)
    same = honest_information([rng.normal(1.0, 0.5, 100) for _ in range(2_000)])
    assert same.between < 0.02
    with pytest.raises(UserError, match=r"honest accounts: 19; accepted: at least 20"):
        honest_information(groups[:19])


def test_honest_accounts_pay_at_most_twice_and_extractors_a_hundred_times():
    rng = np.random.default_rng(1)
    honest = honest_information(accounts(500, 300, rng))
    for group in accounts(1_000, 2_000, rng):
        for n in (1, 10, 100, 2_000):
            assert 1 <= multiplier(n, group[:n].sum(), 0.3, honest) <= 2
    unsure = rng.exponential(0.8, 2_000)  # questions near boundaries, say
    paid = [multiplier(n, unsure[:n].sum(), 0.3, honest) for n in (50, 100, 200, 400, 2_000)]
    assert paid == sorted(paid) and paid[-1] == 100


def test_suspicion_raises_the_price_of_questions_that_look_honest():
    honest = Information(0.2, 0.2, 0.03)
    prices = [multiplier(1_000, 200.0, s, honest) for s in (-0.5, 0.0, 0.4, 0.75, 0.9, 1.0, 3.0)]
    assert prices[:2] == [1, 1] and prices[3] == 2 and prices[-2:] == [100, 100]
    assert prices == sorted(prices) and 2 < prices[4] < 100


def test_bounds_at_the_edges():
    assert multiplier(0, 0.0, 0.0, Information(0.2, 0.2, 0.03)) == 1
    sure = Information(0.0, 0.0, 0.0)  # a model that is always sure
    assert multiplier(10, 0.0, 0.0, sure) == 1 and multiplier(10, 5.0, 0.0, sure) == 100
