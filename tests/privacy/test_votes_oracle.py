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
    assert (record.unit, record.cap, record.answers) == ("record", 100, 30)


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


@pytest.mark.parametrize("kind", [{}, {"top_k": 2}])
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
