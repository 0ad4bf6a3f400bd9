"""The planner says when there are too few clients, with the number."""

import numpy as np
import pytest

from dpsd.planning.clients import AGREE, RIVAL, enough_clients
from dpsd.planning.describe import describe
from dpsd.planning.text import describe_text
from dpsd.privacy.mechanisms.votes import NoisyVotes


def test_the_number_of_clients_is_where_half_of_the_answers_are_right():
    sigma, classes = 100.0, 10
    needed = enough_clients(NoisyVotes(classes, 5, sigma)).needed
    rng = np.random.default_rng(0)
    rest = (1 - AGREE - RIVAL) / (classes - 2)
    votes = needed * np.array([AGREE, RIVAL] + [rest] * (classes - 2))
    noisy = votes + sigma * rng.standard_normal((100_000, classes))
    assert (noisy.argmax(1) == 0).mean() == pytest.approx(0.5, abs=0.01)


def test_the_plan_says_so():
    from dpsd.config import parse_config

    def text(clients):
        tree = {
            "device": "cpu",
            "loop": {"rounds": 4},
            "privacy": {"route": "federated", "unit": "client", "mechanism": "noisy_votes",
                        "epsilon": 2, "answers": 2048},
            "federated": {"clients": clients},
        }  # fmt: skip
        return describe_text(describe(parse_config(tree)))

    assert "Clients: 5 are too few" in text(5) and "Clients: 1,000 are enough" in text(1000)
    assert "the server sees each client's votes and is trusted" in text(5)


def record(**federated):
    from dpsd.config import parse_config

    return parse_config(
        {
            "device": "cpu",
            "loop": {"rounds": 4},
            "teacher": {"shards": 50},
            "privacy": {"route": "federated", "unit": "record", "mechanism": "noisy_votes",
                        "epsilon": 1, "answers": 400},
            "federated": federated,
        }
    )  # fmt: skip


def test_the_plan_counts_the_label_histogram():
    from dpsd.privacy.accounting import compose_epsilon
    from dpsd.privacy.plan import make_plan

    plan = make_plan(record(aggregate="labels"))
    assert 0.99 < plan.unit_epsilon(1e-5) <= 1
    votes = plan.releases()[:1]
    assert compose_epsilon(votes, 1e-5) < 0.985  # a twentieth of the budget is the histogram's
    text = describe_text(describe(record(aggregate="labels")))
    assert "Label histogram: each client releases how many" in text
    assert f"sigma {plan.mechanism.labels_sigma:.6g} in each count" in text
    assert "Label histogram" not in describe_text(describe(record()))


def facts(unit, partition="iid", aggregate="plain", earlier=()):
    labels = {"kind": "votes", "sigma": 5.0, "cells": 2} if aggregate == "labels" else None
    return {
        "unit": unit, "relation": "two worlds", "route": "federated", "accountant": "ours",
        "scope": "per_answer" if unit in ("answer", "none") else "total",
        "mechanism": {"mechanism": "m", "noise": "some", "sensitivity": 1.0, "derivation": "so",
                      "aggregate": aggregate, "labels_sigma": 5.0 if labels else None},
        "labels": None if unit == "none" else labels, "answers_cap": 400, "answers_made": 400,
        "asks_per_image": 1, "delta": 1e-5, "deltas": [1e-5],
        "earlier_runs": [{"run": name} for name in earlier], "near_duplicates": None,
        "release": {"kind": "open" if unit == "none" else "votes"},
        "federation": {"clients": 3, "rounds": 4, "partition": partition, "quorum": 2,
                       "aggregate": aggregate, "fewest": 2, "answered": {}},
        "guarantee": {"epsilon": 0.5, "mu": None, "rho": 0.1, "epsilon_at": [0.5],
                      "worst_case_epsilon_at": [90.0],
                      "composed_epsilon": 0.75, "composed_worst_case_epsilon": 95.0},
    }  # fmt: skip


@pytest.mark.parametrize(
    ("given", "said", "never"),
    [
        (
            facts("answer"),
            "at most 1 time(s) in all of them, which the epsilon per answer covers; it does not "
            "protect a record",
            "Label histogram",
        ),
        (facts("answer"), "each client's own ledger also holds what other", "none in the ledger"),
        (
            facts("record", aggregate="labels"),
            "all its 400 answers and its label histogram compose to epsilon 0.5 for one record",
            "drawn by its label",
        ),
        (facts("record", "dirichlet"), "Who holds which row was drawn by its label", "histogram"),
        (
            facts("record", "iid", aggregate="labels", earlier=["a", "a labels"]),
            "Earlier runs on the same data: 1 in the server's ledger. Together with this one "
            "they have epsilon 0.75 for one record",
            "data: 2",
        ),
        (facts("client", "iid"), "Another partition of the same data makes other clients", "own l"),
        (facts("client", "own"), "Earlier runs on the same clients: none", "Another partition"),
        (
            facts("client"),
            "its votes enter up to 400 sums, which compose to epsilon 0.5 for one client",
            "own ledger",
        ),
        (
            facts("none", aggregate="labels"),
            "each client gives the server how many of its records have which class, once, without "
            "noise",
            "charged",
        ),
    ],
)
def test_the_statement_says_it_exactly(given, said, never):
    from dpsd.privacy.federated_wording import federated_lines

    text = "\n".join(federated_lines(given))
    assert said.casefold() in text.casefold() and never not in text
