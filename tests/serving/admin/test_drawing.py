"""Pictures say in words what they show, and put things where they are."""

import re

import numpy as np
import pytest

from dpsd.serving.admin.board import Group
from dpsd.serving.admin.drawing import bars, cloud, course, graph, meter
from dpsd.serving.traffic import Minute


def numbers(svg, pattern):
    return [tuple(map(float, found)) for found in re.findall(pattern, str(svg))]


def test_bars_are_as_tall_as_their_share_of_the_most():
    minutes = [Minute(0, 4, 1, 50), Minute(60, 0, 0, 0), Minute(120, 8, 8, 100)]
    tall = r'class="bar" x="(\d+)" y="[\d.]+" width="8" height="([\d.]+)"'
    assert numbers(bars(minutes, "images"), tall) == [(1, 60), (21, 120)]
    requests = bars(minutes, "requests")
    assert numbers(requests, tall) == [(1, 60), (21, 120)]
    assert numbers(requests, tall.replace("bar", "bar refused")) == [(1, 15), (21, 120)]
    assert "12 in all, at most 8 in a minute; 9 refused" in requests


def test_a_cloud_keeps_distances_and_leaves_out_what_is_no_number():
    honest = np.array([[0, 0], [4, 0]], np.float32)
    asked = np.array([[0, 2], [np.nan, 1], [np.inf, 0]], np.float32)
    svg = cloud(honest, asked, "a")
    dots = numbers(svg, r"M([\d.]+) ([\d.]+)h0")
    assert dots == [(8, 146), (192, 146), (8, 54)]  # one scale: 46 for each unit; y points up
    assert "No questions of a" in cloud(honest[:0], asked[:0], "a")


@pytest.mark.parametrize(
    ("value", "width", "kind"),
    [(0, 0, "full"), (0.7, 70, "full near"), (1, 100, "full alarm"), (9, 200, "full alarm"),
     (float("nan"), 0, "full")],
)  # fmt: skip
def test_a_meter_has_the_alarm_in_the_middle(value, width, kind):
    found = re.search(rf'class="{kind}" x="0" y="3" width="([\d.]+)"', str(meter(value, "a")))
    assert float(found.group(1)) == width


def test_a_course_ends_at_its_last_value_and_may_be_empty():
    svg = course([0.0, 2.0, 1.0], "a")
    assert 'points="0.0,120.0 300.0,0.0 600.0,60.0"' in svg and 'y1="60.0"' in svg
    assert "over 3 windows of questions; 1.00 now" in svg
    assert "over 0 windows" in course([], "a") and "polyline" not in course([], "a")


def test_a_graph_is_the_same_each_time_and_its_names_are_text():
    group = Group(("a", "b", "c"), (("a", "b", "same network"), ("a", "z", "gone")))
    svg = graph(group, {"a": "<b>Ada</b>"}, {"b"})
    assert svg == graph(group, {"a": "<b>Ada</b>"}, {"b"})
    assert svg.count("<circle") == 3 and svg.count("<line") == 1
    assert svg.count("node blocked") == 1 and "&lt;b&gt;Ada" in svg and "<b>" not in svg


def test_a_large_graph_is_cut():
    ids = tuple(f"a{i}" for i in range(300))
    ties = tuple((ids[i], ids[j], "x") for i in range(60) for j in range(i))
    svg = graph(Group(ids, ties), {}, set())
    assert svg.count("<circle") == 150 and svg.count("<line") == 1_000
    assert "300 accounts" in svg
