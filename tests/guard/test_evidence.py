"""Evidence: valid p-values and e-values, the mixture against its definition, Ville's bound."""

import itertools
import math

import numpy as np
import pytest

from dpsd.errors import UserError
from dpsd.guard.detection.evidence import Evidence, alarm_level, calibrate, e_value


def test_bounds_on_tails_hold_for_many_calibrations():
    """The true rate at every threshold stays below its bound: standard normal statistics."""
    rng = np.random.default_rng(0)
    broken = 0
    for _ in range(300):
        tail = calibrate(rng.normal(size=2_000))
        true = np.array([0.5 * math.erfc(t / math.sqrt(2)) for t in tail.thresholds])
        broken += bool((true > tail.rates).any())
        assert (np.diff(tail.thresholds) > 0).all() and (np.diff(tail.rates) <= 0).all()
    assert broken <= 2  # expected: 300 times 1e-4


def test_p_values_of_new_benign_windows_are_valid_and_of_others_small():
    rng = np.random.default_rng(1)
    tail = calibrate(rng.exponential(size=20_000))
    p = tail.p_values(rng.exponential(size=200_000))
    for level in (0.5, 0.1, 0.01, 0.002):
        assert (p <= level).mean() <= level * 1.1
    assert e_value(p).mean() <= 1
    assert tail.p_values([100.0])[0] < 0.003
    assert tail.p_values([-1.0])[0] == 1


def test_ties_are_no_evidence():
    tail = calibrate(np.zeros(1_000))
    assert tail.p_values([0.0])[0] == 1 and tail.p_values([1.0])[0] == 1


def test_the_mixture_is_the_sum_over_beginnings():
    values = [3.0, 0.5, 2.0, 4.0]
    evidence = Evidence()
    assert evidence.value == 1
    for n, e in enumerate(values, 1):
        evidence = evidence.after([e, e])
        begun = sum(math.prod(values[k - 1 : n]) / (k * (k + 1)) for k in range(1, n + 1))
        assert evidence.value == pytest.approx(begun + 1 / (n + 1))


def test_false_alarms_stay_below_the_rate_at_any_time():
    """4,000 benign accounts of 200 windows each; alarms are looked for after every window."""
    rng = np.random.default_rng(2)
    tail = calibrate(rng.normal(size=20_000))
    e = e_value(tail.p_values(rng.normal(size=(4_000, 200))))
    begun, alarms = np.zeros(4_000), np.zeros(4_000, bool)
    for n in range(1, 201):
        begun = e[:, n - 1] * (begun + 1 / (n * (n + 1)))
        alarms |= begun + 1 / (n + 1) >= 20
    assert alarms.mean() <= 0.05


def test_an_account_that_turns_bad_late_is_caught():
    tail = calibrate(np.random.default_rng(3).normal(size=20_000))
    rng, evidence = np.random.default_rng(4), Evidence()
    for t in rng.normal(size=300):
        evidence = evidence.after([float(e_value(tail.p_values([t]))[0])])
    assert evidence.value < 20
    for bad in itertools.count(1):  # noqa: B007
        evidence = evidence.after([float(e_value(tail.p_values([6.0]))[0])])
        if evidence.value >= 1_000:
            break
    assert bad <= 12


def test_accounts_that_differ_from_each_other_are_kept_below_the_rate():
    """Honest accounts with a taste of their own: the product alone would alarm far too often."""
    rng = np.random.default_rng(5)
    tail = calibrate(rng.normal(size=4_000) * math.hypot(1, 0.7))

    def maxima(accounts):
        taste = rng.normal(0, 0.7, (accounts, 1))
        e = e_value(tail.p_values(rng.normal(size=(accounts, 60)) + taste))
        begun, most = np.zeros(accounts), np.ones(accounts)
        for n in range(1, 61):
            begun = e[:, n - 1] * (begun + 1 / (n * (n + 1)))
            most = np.maximum(most, begun + 1 / (n + 1))
        return most

    level = alarm_level(0.01, maxima(5_000))
    tried = maxima(5_000)
    assert (tried >= 100).mean() > 0.012  # what the text of the module warns of
    assert (tried >= level).mean() <= 0.015


def test_too_little_to_calibrate_on_is_said():
    with pytest.raises(UserError, match="benign windows: 10; accepted: at least 200"):
        calibrate(np.zeros(10))
    with pytest.raises(UserError, match="needs at least 999"):
        alarm_level(0.001, np.ones(500))
    with pytest.raises(UserError, match="alpha: 2"):
        alarm_level(2, np.ones(500))
    assert alarm_level(0.001, np.ones(999)) == 1_000


def test_the_conformal_level_is_the_kth_largest_and_above_it():
    maxima = np.arange(1.0, 1_000.0) * 10  # 999 accounts; at 1 % ten may exceed
    level = alarm_level(0.01, maxima)
    assert (maxima >= level).sum() == 9
