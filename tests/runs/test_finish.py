"""The figures that scripts read of a finished run."""

from types import SimpleNamespace

import pytest

from dpsd.config import parse_config
from dpsd.privacy.plan import make_plan
from dpsd.runs.finish import report_of


@pytest.mark.parametrize(("mechanism", "epsilon"), [("gaussian", 1), ("none", None)])
def test_a_report_keeps_the_configured_epsilon_beside_the_recomputed(mechanism, epsilon):
    config = parse_config({"privacy": {"mechanism": mechanism, "epsilon": epsilon}})
    statement = {
        "schema_version": 1, "private": True, "scope": "per_answer", "seeded_noise": False,
        "answers_made": 10, "guarantee": {"epsilon": 0.987, "worst_case_epsilon": 5.0},
    }  # fmt: skip
    run = SimpleNamespace(config=config, teacher="t")
    privacy = report_of(run, make_plan(config), statement, 1.0, {})["privacy"]
    assert privacy["epsilon"] == 0.987
    assert privacy["configured_epsilon"] == epsilon
