"""The benchmarks of extraction: a small cell, shared parts, and the tables of both."""

import json
from functools import partial

import pytest
import torch
from bench_tables import extraction, extraction_runs
from render_tables import extraction as section
from render_tables.extraction_runs import extraction_runs as runs_section

from dpsd.attacks.extraction import matrix
from dpsd.attacks.extraction.clone import Holdings
from dpsd.attacks.statistics import wilson

CELL = {
    "problem": "small", "title": "digits", "defence": "none", "data": "digits", "pool": "half",
    "victim": {"model": "cnn-tiny", "epochs": 1, "batch_size": 64, "lr": 0.005, "augment": "none"},
    "clone": "cnn-tiny", "passes": 1, "augment": "none", "rows": 100, "ladder": [20, 60],
    "attacks": ["basic"], "seeds": [0],
}  # fmt: skip


@pytest.fixture
def measure(monkeypatch, tmp_path):
    """`measure` with clones that train for a few steps."""
    monkeypatch.setattr(extraction, "Holdings", partial(Holdings, least_steps=20))
    return lambda cell: extraction.measure(cell, 0, tmp_path / "teachers", tmp_path / "parts")


def test_a_cell_is_measured_and_tabled(measure, monkeypatch, tmp_path):
    assert section.extraction(tmp_path) == []
    rounded = CELL | {"defence": "rounding:digits=1", "title": "digits, rounding:digits=1"}
    known = {"small-none": CELL, "small-rounding": rounded}
    for name, cell in known.items():
        found = json.loads(json.dumps(measure(cell)))
        assert found["rows"] == 100 and found["ladder"] == [20, 60]
        (attacked,) = found["cells"]
        assert [c["asked"] for c in attacked["curve"]] == [20, 60]
        assert found["seconds"].keys() == {"basic"}
        facts = {"cell": name, "seed": 0, "config_hash": extraction.current_hash(cell, 0)}
        (tmp_path / f"{name}-seed0.json").write_text(json.dumps(found | facts))
    monkeypatch.setattr(section, "cells", lambda: known)
    text = "\n".join(section.extraction(tmp_path))
    assert "### digits\n" in text and "after 60 asked images, by defence, on 100 test rows" in text
    assert "| attack | none | rounding:digits=1 | near the boundary |" in text
    assert "| rounding:digits=1 | " in text and "not shown" not in text
    last = attacked["curve"][-1]
    assert f"| basic, {100 * last['agreement']:.2f} |" in text


def test_a_row_of_the_table_by_hand():
    """An attack that reached 90 % of the victim at the second step, and 3 of 4 boundary rows."""
    ends = [{"asked": n, "accuracy": a, "agreement": a, "boundary_agreement": 0.75}
            for n, a in ((20, 0.4), (60, 0.9))]  # fmt: skip
    run = {"targets": {"victim": {"accuracy": 0.96, "boundary_rows": 4}}, "rows": 100, "prices": [],
           "cells": [{"attack": "basic", "curve": ends, "queries_to": {"0.9": 60}}]}  # fmt: skip
    lines = section._problem({"a": CELL}, {"a": [run]})
    low, high = (f"{100 * bound:.0f}" for bound in wilson(3, 4))
    assert f"| basic | 90.00 | 75.00 ({low} to {high}) | 93.75 | 60 |" in lines
    assert "agreement on the 4 rows near the boundary" in lines[2] and "at most" in lines[2]
    two = section._problem({"a": CELL}, {"a": [run, run]})
    assert "| basic | 90.00 ± 0.00 | 75.00 ± 0.00 | 93.75 ± 0.00 | 60 |" in two


def test_cells_of_one_problem_share_their_parts(measure, monkeypatch):
    first = measure(CELL)
    other = CELL | {"problem": "other", "title": "other attacks", "attacks": ["basic", "top1"]}
    asked = []

    class Service(matrix.Service):
        def __exit__(self, *error):
            asked.append(self.asked)
            super().__exit__(*error)

    monkeypatch.setattr(matrix, "Service", Service)
    assert measure(CELL) == first and asked == []
    second = measure(other)
    assert second["cells"][0] == first["cells"][0] and asked == [60]  # of `top1` alone
    measure(CELL | {"passes": 2})
    assert asked == [60, 60]  # what a part depends on makes another one


def test_runs_are_measured_and_tabled(monkeypatch, tmp_path):
    """What copies leak, from reports by hand."""
    cell, copies = extraction_runs.CELLS["digits-answer"], ("teacher", "student")
    attacked = [
        {"target": t, "attack": a, "defence": d, "curve": [{"agreement": v, "accuracy": v - 0.1}]}
        for t in copies for a, v in (("basic", 0.7), ("mixup", 0.8)) for d in ("none", "labels")
    ]  # fmt: skip
    reports = {
        "extraction": {"ladder": [100, 300], "cells": attacked,
                       "targets": {t: {"accuracy": 0.95} for t in copies}},
        "membership": {"cells": [
            {"target": "run teacher", "rows": "ordinary", "attack": a, "auc": v,
             "auc_interval": [v - 0.1, v + 0.1], "verdict": "none"}
            for a, v in (("x", 0.5), ("y", 0.6))
        ]},
        "inversion": {"attacks": {"gmi": {
            "targets": {t: {"rates": {"both": {"rate": 0.25}}}
                        for t in (*copies, "clone of teacher", "clone of student")},
            "floors": {"draws": {"both": {"rate": 0.125}}},
        }}},
    }  # fmt: skip
    config = extraction_runs.configuration(cell, 0, tmp_path)
    monkeypatch.setattr(extraction_runs, "transcribed", lambda *_: _Run(config))
    for name, report in reports.items():
        monkeypatch.setattr(extraction_runs, name, lambda run, report=report, **_: report)
    args = type("Args", (), {"teachers": tmp_path})
    found = extraction_runs.measure(cell, 0, args, tmp_path / "run")
    assert found["copies"]["student"]["attacks"]["mixup"]["agreement"] == 0.8
    assert found["membership"]["run teacher, ordinary"]["attack"] == "y"
    assert runs_section(tmp_path) == []
    facts = {"cell": "digits-answer", "seed": 0,
             "config_hash": extraction_runs.current_hash(cell, 0)}  # fmt: skip
    (tmp_path / "digits-answer-seed0.json").write_text(json.dumps(found | facts))
    lines = runs_section(tmp_path)
    assert any(line.endswith("| student | 95.00 | mixup | 80.00 | 70.00 |") for line in lines)
    assert any(line.endswith("| teacher | 60.00 | 25.00 | 12.50 |") for line in lines)
    assert any(line.endswith("| copy of the student | - | 25.00 | 12.50 |") for line in lines)


class _Run:
    """As much of a run as `measure` looks at."""

    def __init__(self, config: object) -> None:
        self.config = config


def test_a_victim_is_trained_once(tmp_path):
    one, again = (extraction.make_problem(CELL, 0, tmp_path) for _ in range(2))
    images = one.test.images[:]
    assert len(list((tmp_path / "extraction").iterdir())) == 1
    assert torch.equal(one.victim.ask(images), again.victim.ask(images))
    assert len(one.test) == 100 and one.labels is not None and len(one.labels) == len(one.pool)
