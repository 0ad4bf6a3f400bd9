"""The moving windows against a list of all charges, and what they forget."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from limits import RateLimitItemPerMinute
from limits.strategies import MovingWindowRateLimiter

from dpsd.guard import windows
from dpsd.guard.windows import Windows


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def time(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch):
    found = Clock()
    monkeypatch.setattr(windows, "time", found)
    return found


STEPS = st.lists(st.tuples(st.sampled_from("ab"), st.integers(1, 6), st.floats(0, 40)))


@given(STEPS)
def test_they_are_a_sum_over_the_last_minute(steps):
    clock, kept = Clock(), []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(windows, "time", clock)
        counts = Windows()
        for key, amount, wait in steps:
            clock.now += wait
            mine = [(at, n) for at, k, n in kept if k == key and at >= clock.now - 60]
            total = sum(n for _, n in mine)
            start = mine[0][0] if mine else clock.now
            assert counts.get_moving_window(key, 10, 60) == (start, total)
            assert counts.acquire_entry(key, 10, 60, amount) == (total + amount <= 10)
            if total + amount <= 10:
                kept.append((clock.now, key, amount))


def test_they_serve_the_library_s_limiter(clock):
    rates, item = MovingWindowRateLimiter(Windows()), RateLimitItemPerMinute(5)
    assert rates.hit(item, "eve", cost=4) and not rates.hit(item, "eve", cost=2)
    assert rates.test(item, "eve", cost=1) and rates.get_window_stats(item, "eve").remaining == 1
    clock.now += 61
    assert rates.test(item, "eve", cost=5)


def test_keys_without_charges_are_forgotten(clock, monkeypatch):
    monkeypatch.setattr(windows, "_SWEEP", 10)
    counts = Windows()
    for i in range(100):
        clock.now += 10
        assert counts.acquire_entry(f"key {i}", 5, 60)
    assert len(counts._windows) < 21
    counts.clear("key 99")
    assert counts.get_moving_window("key 99", 5, 60)[1] == 0
    assert counts.reset() < 21 and counts.get_moving_window("key 98", 5, 60)[1] == 0
