"""Figures of extraction against figures by hand."""

import math

import numpy as np
import pytest

from dpsd.attacks.extraction import report as module
from dpsd.attacks.extraction.report import extraction_report
from dpsd.attacks.extraction.text import extraction_card, extraction_text
from dpsd.attacks.statistics import wilson

SAID = np.array([[0.9, 0.1], [0.2, 0.8], [0.55, 0.45], [0.4, 0.6]], np.float32)  # says 0 1 0 1
LABELS = np.array([0, 1, 1, 1])
CELL = {"target": "student", "attack": "basic", "defence": "none", "seed": 0}


def report(predicted, asked=(100, 1_000), labels=LABELS, **cell):
    known = CELL | cell
    name = "{target}-{attack}-{defence}-seed{seed}".format(**known)
    arrays = {
        "labels": labels, "student/said": SAID,
        "student/price/labels": np.eye(2, dtype=np.float32)[[0, 1, 1, 1]],
        f"{name}/asked": np.array(asked), f"{name}/predicted": np.array(predicted, np.int16),
        f"{name}/held": np.array([0.5, math.nan]), f"{name}/seconds": np.array([1.0, 2.0]),
    }  # fmt: skip
    facts = {
        "budget": "fast", "run": "r", "seed": 0, "ladder": [100, 1_000], "model": "cnn-tiny",
        "pool": "rows", "rows": 4, "labelled": bool(len(labels)), "defences": ["none", "labels"],
        "targets": ["student"], "cells": [known],
    }  # fmt: skip
    return extraction_report(arrays, facts)


def test_a_curve_by_hand():
    (cell,) = report([[0, 0, 1, 1], [0, 1, 0, 1]])["cells"]
    first, last = cell["curve"]
    assert first["accuracy"] == 0.75 and first["agreement"] == 0.5 and last["agreement"] == 1
    # margins .8 .6 .1 .2: rows 2 and, in float32, none other is below 0.2
    assert first["boundary_agreement"] == 0 and last["boundary_agreement"] == 1
    assert first["interval"] == list(wilson(2, 4)) and last["interval"] == list(wilson(4, 4))
    assert first["boundary_interval"] == list(wilson(0, 1))
    assert first["held_out_agreement"] == 0.5 and last["held_out_agreement"] is None
    assert cell["area"] == pytest.approx(0.75)  # two points: the mean of 0.5 and 1
    assert cell["queries_to"] == {"0.5": 100, "0.9": 100, "0.95": 100}  # victim: 0.75


def test_without_labels_agreement_stands_for_accuracy():
    found = report([[0, 0, 1, 1], [0, 1, 0, 1]], labels=np.zeros(0, np.int64))
    (cell,) = found["cells"]
    assert cell["curve"][0]["accuracy"] is None and found["targets"]["student"]["accuracy"] is None
    assert cell["queries_to"] == {"0.5": 100, "0.9": 1_000, "0.95": 1_000}
    assert "no measure of privacy" in extraction_text(found)


def test_a_victim_that_is_sure_of_all_rows_has_no_boundary(monkeypatch):
    monkeypatch.setattr(module, "BOUNDARY", 0.01)
    found = report([[0, 0, 1, 1], [0, 1, 0, 1]])
    end = found["cells"][0]["curve"][-1]
    assert end["boundary_agreement"] is None and end["boundary_interval"] is None
    assert "near the boundary, 0 of 4 rows" in extraction_text(found)


def test_the_price_of_a_defence_by_hand():
    (price,) = report([[0, 1, 0, 1], [0, 1, 0, 1]])["prices"]
    assert price["accuracy_before"] == 0.75 and price["accuracy"] == 1
    assert price["flips"] == 0.25 and price["l1"] == pytest.approx((0.2 + 0.4 + 1.1 + 0.8) / 4)


def test_the_price_of_a_changed_student_by_hand():
    """It says 0 1 1 1, as the labels do, and the released student 0 1 0 1."""
    changed = np.array([[0.9, 0.1], [0.2, 0.8], [0.4, 0.6], [0.4, 0.6]], np.float32)
    arrays = {
        "labels": LABELS, "student/said": SAID, "nasty/said": changed, "nasty/before": SAID,
    }  # fmt: skip
    facts = {
        "budget": "fast", "ladder": [100], "model": "cnn-tiny", "pool": "rows", "rows": 4,
        "labelled": True, "defences": ["none"], "targets": ["student", "nasty"], "cells": [],
    }  # fmt: skip
    found = extraction_report(arrays, facts)
    assert "price" not in found["targets"]["student"] and not found["prices"]
    assert found["targets"]["nasty"]["accuracy"] == 1
    price = found["targets"]["nasty"]["price"]
    assert price["accuracy_before"] == 0.75 and price["accuracy"] == 1
    assert price["flips"] == 0.25 and price["l1"] == pytest.approx(0.3 / 4)
    # 15 bins: of the released student .9 | .8 | .55 wrong | .6 have bins of their own; afterwards
    # both answers of .6 are right.
    assert price["ece_before"] == pytest.approx((0.1 + 0.2 + 0.55 + 0.4) / 4)
    assert price["ece"] == pytest.approx((0.1 + 0.2 + 0.4 + 0.4) / 4)
    text = extraction_text(found)
    assert "student   75.00 %" in text and "nasty    100.00 %" in text
    row = "| nasty | 100.00 % | -25.00 | 25.00 % | 0.075 |"
    assert "beside the released student" in text and row in extraction_card(found)


def test_words_and_the_best_attack():
    found = report([[0, 0, 1, 1], [0, 1, 0, 1]])
    assert found["best"] == [
        {"target": "student", "defence": "none", "attack": "basic", "agreement": 1.0}
    ]
    # one of one and four of four, z^2 = 3.8415: from 1 / (1 + z^2) and 4 / (4 + z^2)
    assert (
        "basic copies best, 100.0 % agreement (51.0 % to 100.0 %); "
        "near the boundary, 1 of 4 rows: 100.0 % (20.7 % to 100.0 %)"
    ) in extraction_card(found)
    assert "differ by less than 0.2" in extraction_text(found)
    assert "| basic | 100.0 % | - |" in extraction_card(found)


def test_wilson_against_the_formula_of_1927():
    low, high = wilson(8, 10)
    for rate in (low, high):  # the bounds solve (p - 0.8)^2 = z^2 p (1 - p) / n
        assert (rate - 0.8) ** 2 == pytest.approx(1.959964**2 * rate * (1 - rate) / 10)
    for n in range(1, 60):  # the rate itself is never outside, not by a rounding either
        assert wilson(0, n)[0] == 0 and wilson(n, n)[1] == 1
