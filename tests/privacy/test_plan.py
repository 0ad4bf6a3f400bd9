import dataclasses
import math

import pytest
from ensembles import ensemble_config
from scipy.stats import norm

from dpsd.config import parse_config
from dpsd.errors import UserError
from dpsd.privacy.accounting import compose_epsilon
from dpsd.privacy.mechanisms.base import NoMechanism
from dpsd.privacy.mechanisms.gaussian import Gaussian
from dpsd.privacy.mechanisms.randomized_response import RandomizedResponse
from dpsd.privacy.plan import make_plan


def config(privacy=None, loop=None, **sections):
    privacy = {"mechanism": "randomized_response", "epsilon": 1.0, "answers": 1000} | (
        privacy or {}
    )
    loop = {"rounds": 10} | (loop or {})
    return parse_config({"data": {"name": "digits"}, "privacy": privacy, "loop": loop} | sections)


def plan(privacy=None, loop=None, **sections):
    return make_plan(config(privacy, loop, **sections))


def test_rounds_and_queries_make_the_cap():
    p = plan()
    assert (p.answers, p.rounds, p.queries_per_round) == (1000, 10, 100)
    assert p.rounds * p.queries_per_round == p.answers
    p = plan({"answers": None}, {"rounds": 7, "queries_per_round": 30})
    assert p.answers == 210


@pytest.mark.parametrize("vector", ["gradient", "probabilities", "onehot"])
@pytest.mark.parametrize("bound", ["normalize", "clip"])
@pytest.mark.parametrize("top_k", [None, 1, 3])
@pytest.mark.parametrize("asks", [1, 3])
def test_gaussian_noise_follows_from_the_sensitivity(vector, bound, top_k, asks):
    privacy = {"mechanism": "gaussian", "vector": vector, "bound": bound, "bound_norm": 0.4}
    p = plan(privacy | {"top_k": top_k, "asks_per_image": asks, "epsilon": 2.0, "delta": 1e-6})
    m = p.mechanism
    assert isinstance(m, Gaussian)
    assert (m.vector, m.bound, m.bound_norm, m.k) == (vector, bound, 0.4, top_k or 10)
    mu = math.sqrt(asks) * m.sensitivity / m.sigma
    delta = norm.cdf(-2 / mu + mu / 2) - math.exp(2) * norm.cdf(-2 / mu - mu / 2)
    assert delta == pytest.approx(1e-6, rel=1e-6)
    assert m.event.mu == m.sensitivity / m.sigma


@pytest.mark.parametrize(("prior", "top_k"), [("student", None), ("student", 4), ("uniform", None)])
def test_randomised_response(prior, top_k):
    p = plan({"prior": prior, "top_k": top_k, "asks_per_image": 2})
    assert p.mechanism == RandomizedResponse(10, 0.5, top_k, prior == "student")
    assert p.unit_epsilon(0) == pytest.approx(1.0)


def test_worst_case_composes_all_answers():
    p = plan()
    assert p.worst_case_epsilon(1e-5) == compose_epsilon([(p.mechanism.event, 1000)], 1e-5)
    assert 1000 * math.tanh(0.5) < p.worst_case_epsilon(1e-5) < 1000
    assert p.unit_epsilon(1e-5) == 1.0


def test_deltas():
    """The configured one first. Only numbers of units count, never of answers."""
    assert plan({"delta": 1e-4}).deltas() == [1e-4, 1e-5, 1e-6]
    assert plan().deltas() == [1e-5, 1e-6]


def units_plan(delta=1e-6, units=1000, **privacy):
    tree = ensemble_config(delta=delta, **privacy)
    return make_plan(parse_config(tree | {"data": tree["data"] | {"units": units}}))


def test_delta_is_judged_against_the_number_of_units():
    """Before, a record ensemble printed first "At delta 4.96e-05", above 1/n, which flattered."""
    assert units_plan().deltas() == [1e-6, 1e-5, 1000**-1.1]
    assert units_plan(units=200_000).deltas() == [1e-6, 200_000**-1.1]  # 1e-5 is above 1/M
    for delta, units in ((0.5, 1000), (1e-3, 1000), (2e-5, 60_000), (1e-3, None)):
        with pytest.raises(UserError, match=r"privacy\.delta: .* below .*allow_large") as e:
            units_plan(delta, units)
        assert "\n" not in str(e.value)
    assert units_plan(2e-5, 60_000, allow_large_delta=True).delta == 2e-5
    with pytest.raises(
        UserError, match=r"privacy\.delta: 0\.5 for one answer; accepted: below 0.001"
    ):
        plan({"delta": 0.5})
    mnist = {"data": {"name": "mnist"}, "teacher": {"shards": 100}}
    votes = {"route": "ensemble", "unit": "record", "mechanism": "noisy_votes", "epsilon": 1}
    known = make_plan(parse_config(mnist | {"privacy": votes}))
    assert known.units == 54_000 and known.deltas() == [1e-5, 1e-6, 54_000**-1.1]


def test_private_needs_a_mechanism_and_fresh_noise():
    assert plan().private
    assert not plan({"insecure_seeded_noise": True}).private
    open_plan = plan({"mechanism": "none", "epsilon": None})
    assert not open_plan.private
    assert open_plan.mechanism == NoMechanism(10)
    assert (open_plan.unit, open_plan.epsilon) == ("none", math.inf)
    assert open_plan.unit_epsilon(1e-5) == open_plan.worst_case_epsilon(1e-5) == math.inf


def test_a_plan_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        plan().epsilon = 5.0


@pytest.mark.parametrize("mechanism", ["gaussian", "randomized_response"])
def test_top_k_above_the_classes_is_refused(mechanism):
    assert plan({"mechanism": mechanism, "top_k": 10}).mechanism.top_k == 10
    with pytest.raises(UserError, match=r"privacy.top_k: 11 .* up to 10"):
        plan({"mechanism": mechanism, "top_k": 11})
