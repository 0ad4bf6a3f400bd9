"""Progress: one bar with the time left on a terminal, few plain lines elsewhere."""

import io
import sys

import pytest

from dpsd import console
from dpsd.console import Progress, TimeLeft, detail, duration, note, track, working

RECORD = {"loss": 1.5, "agreement_with_answers": 0.25, "epsilon_per_answer": 1.0}


@pytest.fixture(autouse=True)
def usual():
    yield
    console.set_level(console.USUAL)


@pytest.fixture
def clock(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(console.time, "perf_counter", lambda: now[0])
    return now


class _Terminal(io.StringIO):
    def isatty(self):
        return True


def test_time_left_of_one_piece_follows_its_own_speed():
    time = TimeLeft({"rounds": 1.0})
    assert time.at("rounds", 0.2, 10.0) == (0.2, None)  # resumed: nothing measured yet
    share, left = time.at("rounds", 0.4, 30.0)
    assert share == pytest.approx(0.4) and left == pytest.approx(60.0)


def test_time_left_counts_the_pieces_to_come_by_their_weights():
    time = TimeLeft({"teacher": 1.0, "rounds": 4.0, "refit": 2.0})
    time.at("teacher", 0.0, 0.0)
    share, left = time.at("teacher", 0.5, 5.0)  # 10 s for weight 1, so 70 s in all
    assert (share, left) == (pytest.approx(0.5 / 7), pytest.approx(5 + 60))
    time.at("teacher", 1.0, 10.0)
    time.at("rounds", 0.0, 10.0)
    share, left = time.at("rounds", 0.5, 70.0)  # 60 s for half: 60 s, then 2 of weight at 70/3 each
    assert (share, left) == (pytest.approx(3 / 7), pytest.approx(60 + 2 * 70 / 3))
    time.at("rounds", 1.0, 130.0)
    time.at("refit", 0.0, 130.0)
    assert time.at("refit", 1.0, 150.0) == (pytest.approx(1.0), 0.0)


def test_a_piece_that_never_began_is_left_out():
    time = TimeLeft({"teacher": 90.0, "rounds": 5.0, "refit": 5.0})
    time.at("rounds", 0.0, 0.0)
    assert time.at("rounds", 1.0, 10.0) == (pytest.approx(0.5), pytest.approx(10.0))


def test_a_log_gets_a_tenth_of_the_rounds_and_no_control_characters(capsys, clock):
    with Progress(40, 400) as progress:
        working("rounds", 0, 400)
        for i in range(40):
            clock[0] += 1
            progress({"round": i, "answers": 10 * (i + 1)} | RECORD)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 10 and lines[0].startswith("round 4/40  answers 40/400  loss 1.5000")
    assert "epsilon 1 per answer" in lines[0] and lines[0].endswith("10 answers/s  36 s left")
    assert lines[-1].startswith("round 40/40") and all(line.isprintable() for line in lines)


def test_a_log_hears_of_long_pieces_at_each_quarter(capsys, clock):
    with Progress():
        for _ in track(range(8), "students"):
            clock[0] += 20
    assert capsys.readouterr().out.splitlines() == [
        "students 2/8  2 min 0 s left", "students 4/8  80 s left", "students 6/8  40 s left",
        "students 8/8  0 s left",
    ]  # fmt: skip
    with Progress():
        list(track(range(8), "students"))
    assert capsys.readouterr().out == ""  # too short to speak of


def test_pieces_within_a_piece_are_not_shown(capsys, clock):
    with Progress():
        for _ in track(range(4), "students"):
            for _ in track(range(3), "refit"):
                clock[0] += 20
    assert {line.split()[0] for line in capsys.readouterr().out.splitlines()} == {"students"}


def test_work_that_ends_early_makes_room_for_the_next(capsys, clock):
    with Progress():
        for step in track(range(100), "steps"):
            if step == 3:
                break
        for _ in track(range(2), "others"):
            clock[0] += 20
    assert "others 2/2" in capsys.readouterr().out


def test_track_gives_the_same_items_with_and_without_somebody_who_looks():
    generator = (x for x in "abc")
    assert list(track(generator, "letters", 3)) == ["a", "b", "c"]
    assert list(track([1, 2], "")) == [1, 2] and list(track([], "nothing")) == []
    with Progress(shown=False):
        assert list(track("xyz", "letters")) == ["x", "y", "z"]


def test_quiet_says_nothing_and_verbose_every_round(capsys):
    for level, lines in ((console.QUIET, 0), (console.USUAL, 10), (console.VERBOSE, 20)):
        console.set_level(level)
        with Progress(20, 20) as progress:
            for i in range(20):
                progress({"round": i, "answers": i + 1} | RECORD)
        note("going on")
        detail(console.say)("a detail")
        out = capsys.readouterr().out
        assert out.count("round ") == lines
        assert ("going on" in out, "a detail" in out) == (level > -1, level == 1)


def test_one_bar_through_all_pieces_on_a_terminal(monkeypatch):
    terminal = _Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("TERM", "xterm")
    with Progress(2, 40, {"teacher: steps": 1, "rounds": 2, "refit: images": 1}) as progress:
        list(track(range(5), "teacher: steps"))
        working("rounds", 0, 40)
        progress({"round": 0, "answers": 20} | RECORD)
        progress({"round": 1, "answers": 40} | RECORD)
        list(track(range(5), "refit: images"))
    shown = terminal.getvalue()
    places = [shown.find(text) for text in ("teacher: steps", "round 1/2", "refit: images 5/5")]
    assert -1 not in places and places == sorted(places)
    assert [share in shown for share in ("25%", "50%", "75%", "100%")] == [True] * 4


def test_durations():
    assert [duration(s) for s in (0.2, 89, 200, 7500)] == ["0 s", "89 s", "3 min 20 s", "2 h 5 min"]
