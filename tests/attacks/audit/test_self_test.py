"""The auditor's self-test, and that an auditor that is wrong fails it."""

import json

import pytest

from dpsd.attacks.audit import self_test as module
from dpsd.attacks.audit.self_test import accountant_count_trap, cases, self_test, self_test_text
from dpsd.cli import main


@pytest.fixture(scope="module")
def outcomes():
    return self_test(seed=7)


def test_every_mechanism_is_called_right_at_the_stated_rate(outcomes):
    assert all(o.passed for o in outcomes), self_test_text(outcomes)
    assert {o.audits for o in outcomes if o.broken} == {200}
    assert {o.audits for o in outcomes if not o.broken} == {400}


def test_bounds_have_something_to_say(outcomes):
    """A bound of 0 would raise no false alarm either."""
    by_name = {o.name: o for o in outcomes}
    assert by_name["randomised response"].median_bound > 0.6
    assert by_name["one run, randomised response"].median_bound > 0.7
    assert by_name["Gaussian"].median_bound > 0.05


def test_the_named_mistakes_are_among_the_cases():
    names = [c.name for c in cases() if c.broken]
    for word in ("noise halved", "sensitivity", "counted once", "dp-accounting"):
        assert any(word in name for name in names)
    assert all(c.unit for c in cases())


def test_the_accountants_trap_is_below_the_truth():
    assert accountant_count_trap(8) < 2  # eight responses of eps 1 cost more than 5


@pytest.mark.parametrize("factor", [0.0, 1.6])
def test_a_wrong_auditor_fails(monkeypatch, factor):
    true = module.chosen_on_half
    monkeypatch.setattr(module, "chosen_on_half", lambda *a, **k: factor * true(*a, **k))
    outcomes = self_test(audits=40, broken_audits=20)
    failed = [o for o in outcomes if not o.passed]
    assert failed and all(o.broken == (factor < 1) for o in failed)


def test_command(monkeypatch, capsys, outcomes):
    monkeypatch.setattr(module, "self_test", lambda seed: outcomes)
    assert main(["audit", "--self-test"]) == 0
    assert "stated 5 %" in capsys.readouterr().out
    assert main(["audit", "--self-test", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["outcomes"]) == len(outcomes)
    assert main(["audit"]) == 2
    assert main(["audit", "runs/x", "--self-test"]) == 2
