"""The last hour's counts."""

from dashboard_data import Clock

from dpsd.serving.traffic import Minute, Traffic


def test_minutes_hold_what_came_in_them_and_old_ones_go():
    clock = Clock(600.0)
    traffic = Traffic(keep=3, clock=clock)
    traffic.request(200)
    traffic.answered(32)
    clock.at = 659.9
    traffic.request(429)
    clock.at = 720.0
    traffic.request(399)
    quiet = Minute(660)
    assert traffic.minutes() == [Minute(600, 2, 1, 32), quiet, Minute(720, 1, 0, 0)]
    clock.at = 3_600.0
    assert traffic.minutes() == [Minute(3_480), Minute(3_540), Minute(3_600)]


def test_it_holds_no_more_than_it_keeps():
    clock = Clock(0.0)
    traffic = Traffic(keep=5, clock=clock)
    for minute in range(100):
        clock.at = 60.0 * minute
        traffic.answered(minute)
    assert len(traffic._minutes) == 5
    assert [m.images for m in traffic.minutes()] == [95, 96, 97, 98, 99]
