"""Votes behind the one door: what is charged, and what a broken ensemble does not show."""

import pytest
import torch
from ensembles import SHAPE, VOTERS, Ensemble, ensemble_plan
from oracles import images, same

from dpsd.errors import BudgetError, UserError
from dpsd.privacy.events import VotesRelease
from dpsd.privacy.ledger import Ledger
from dpsd.privacy.oracle import Oracle, ReplayOracle

SEEDED = {"insecure_seeded_noise": True}
TESTED = {"threshold": 10.0, "threshold_share": 0.2}


@pytest.fixture
def door(tmp_path):
    def build(ensemble=None, folder="data", keep=None, **privacy):
        ledger = Ledger(tmp_path / folder, "d")
        return Oracle(ensemble or Ensemble(), ensemble_plan(**privacy), ledger, "r", keep=keep)

    build.ledger = lambda folder="data": Ledger(tmp_path / folder, "d")
    return build


def quiet(x):
    assert x.shape[1:] == SHAPE
    return torch.full((len(x), 4), 0.25)


def test_votes_are_charged_as_votes(door):
    answers = door().answer(images(30))
    assert (answers.values.dtype, answers.values.shape) == (torch.int64, (30, 4))
    (record,) = door.ledger().runs()
    assert record.event == ensemble_plan().mechanism.event
    assert isinstance(record.event, VotesRelease)
    assert (record.unit, record.cap, record.answers, record.test) == ("record", 100, 30, None)


def test_the_cap_is_kept(door):
    oracle = door()
    oracle.answer(images(90))
    with pytest.raises(BudgetError, match="cap of 100"):
        oracle.answer(images(11, seed=1))


@pytest.mark.parametrize(
    ("broken", "as_if"),
    [
        (lambda v: v.double().index_fill(0, torch.tensor([0]), torch.nan), [VOTERS, 0, 0, 0]),
        (lambda v: v.index_fill(0, torch.tensor([0]), 50), [VOTERS, 0, 0, 0]),
        (lambda v: v.index_fill(0, torch.tensor([0]), 3), [VOTERS - 9, 3, 3, 3]),
    ],
)
def test_a_broken_row_does_not_show(door, broken, as_if):
    def repaired(votes):
        votes[0] = torch.tensor(as_if)
        return votes

    x = images(20)
    found = door(Ensemble(broken), folder="a", **SEEDED).answer(x)
    assert same(found, door(Ensemble(repaired), folder="b", **SEEDED).answer(x))


def test_votes_of_another_shape_are_refused(door):
    with pytest.raises(UserError, match="votes of shape"):
        door(Ensemble(lambda v: v[:, :3])).answer(images(2))


def test_the_test_is_charged_for_every_row_and_histograms_where_released(door):
    split = Ensemble(lambda v: torch.full_like(v, VOTERS // 4))  # five votes each: refused mostly
    oracle = door(split, threshold=20.0, epsilon=1000.0, answers=60)
    answers = oracle.answer(images(60))
    (record,) = door.ledger().runs()
    assert record.answers == 60  # also for refused rows
    assert record.histograms == int(answers.size.sum()) < 10
    assert record.histograms_cap == 60
    assert record.test == VotesRelease(ensemble_plan(
        threshold=20.0, epsilon=1000.0, answers=60).mechanism.test_sigma, cells=1)  # fmt: skip
    with pytest.raises(BudgetError, match="cap of 60"):
        oracle.answer(images(1, seed=1))


def test_histograms_above_their_cap_are_dropped_also_after_a_restart(door):
    options = {"threshold": 1.0, "threshold_answers": 25, "epsilon": 1000.0}
    first = door(**options).answer(images(20))
    assert first.size.tolist() == [1] * 20
    second = door(**options).answer(images(20, seed=1))
    assert second.size.tolist() == [1] * 5 + [0] * 15
    assert not second.values[5:].any() and second.values[:5].any()
    assert door(**options).answer(images(10, seed=2)).size.sum() == 0
    (record,) = door.ledger().runs()
    assert (record.answers, record.histograms, record.histograms_cap) == (50, 25, 25)


@pytest.mark.parametrize("kind", [{}, TESTED, {"top_k": 2}])
def test_recall_and_replay(door, tmp_path, kind):
    (tmp_path / "bank").mkdir()
    oracle = door(keep=tmp_path / "bank", **kind)
    given = oracle.answer(images(20), quiet)
    assert same(oracle.recall(0)[1], given)
    assert same(ReplayOracle(tmp_path / "bank", ensemble_plan(**kind)).answer(images(20)), given)


def test_noise_is_fresh_unless_it_is_seeded(door):
    x = images(20)
    assert not same(door(folder="a").answer(x), door(folder="b").answer(x))
    assert same(door(folder="c", **SEEDED).answer(x), door(folder="d", **SEEDED).answer(x))
