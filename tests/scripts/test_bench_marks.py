"""The benchmark of marks: pruning, counting of claims, and one small block through it."""

from types import SimpleNamespace

import pytest
import torch
from bench_tables import marks
from problem import FACTS, drawn, trained
from render_tables.marks import marks_table

from dpsd.hardening.synthetic import answers_of


def test_pruning_takes_the_smallest_weights_of_all_layers_together():
    model = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.Linear(2, 2))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[1.0, -2.0, 3.0], [4.0, 5.0, -6.0]]))
        model[1].weight.copy_(torch.tensor([[0.1, 7.0], [8.0, 9.0]]))
        model[0].bias.fill_(0.01)
    thin = marks.pruned(model, 0.4)
    assert thin[0].weight.tolist() == [[0, 0, 0], [4, 5, -6]]
    assert thin[1].weight.tolist() == [[0, 7], [8, 9]]
    assert torch.equal(thin[0].bias, model[0].bias) and float(model[0].weight.detach().min()) == -6


def test_claims_are_counted_with_an_exact_bound():
    rows = [{"step": "a", "wave": 1e-9, "account": 1.0} for _ in range(20)]
    rows += [{"step": "b", "wave": 1.0, "account": 1.0}]
    found = marks.claims(rows, "a")
    assert found["models"] == 20 and found["wave"]["claimed"] == 20
    assert found["wave"]["at_least"] == pytest.approx(0.05 ** (1 / 20))
    assert found["account"] == {"claimed": 0, "at_least": 0.0}


def test_hashes_cover_what_figures_depend_on_and_no_seeds():
    cell = marks.CELLS["digits-copies"]
    assert marks.current_hash(cell) == marks.current_hash(cell | {"seeds": [7]})
    assert marks.current_hash(cell) != marks.current_hash(cell | {"prune": 0.6})


@pytest.mark.parametrize("kind", ["copies", "independent"])
def test_a_small_block(kind, monkeypatch, tmp_path):
    model = trained(0)
    victim = SimpleNamespace(ask=lambda x: answers_of(model, x), facts=FACTS)
    (pool, labels), (images, truth) = drawn(120, 5), drawn(80, 6)
    test = SimpleNamespace(images=images, labels=truth)
    problem = SimpleNamespace(victim=victim, pool=pool, labels=labels, test=test)
    monkeypatch.setattr(marks, "make_problem", lambda *_: problem)
    cell = marks.CELLS[f"digits-{kind}"] | {
        "asked": 64, "passes": 1, "tune_steps": 3, "probes": 100, "block": 1,
        "account": "account_marks:share=0.3",
    }  # fmt: skip
    found = marks.measure(cell, 3, tmp_path)
    first, *others = marks.STEPS
    steps = [first, marks.TWICE, *others] if kind == "copies" else ["independent"]
    assert [m["step"] for m in found["models"]] == steps
    for m in found["models"]:
        assert m["number"] == 3 and 0 <= m["wave"] <= 1 and m["repeated"] <= m["differs"]
        assert 5 < m["marked"] < 40
    assert kind == "independent" or found["models"][0]["accuracy"] > 0.4
    table = marks_table([found, found])
    assert f"| {steps[0]} | 2 |" in "\n".join(table)
