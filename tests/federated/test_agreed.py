"""A client answers a run under the plan that it agreed to, and under no other."""

import pytest
import torch
from federated.doors import QUERIES, Relay, config, door, homes, images, uniform

from dpsd.errors import UserError
from dpsd.federated.answers import answer
from dpsd.federated.client import Node
from dpsd.federated.messages import Request
from dpsd.privacy.events import PureRelease
from dpsd.privacy.ledger import Ledger

FAST = {"deadline_s": 0.6}


def test_a_changed_configuration_does_not_change_a_run_that_began(tmp_path):
    """Before, the ledger kept eps 0.5 per answer for answers that were given at eps 30."""
    before = config(epsilon=0.5, insecure_seeded_noise=False)
    after = config(epsilon=30.0, insecure_seeded_noise=False)
    (home, *_) = homes(before, tmp_path)

    def ask(cfg, position, run="run"):
        request = Request(run, position, 0, images(seed=position), torch.full((QUERIES, 4), 0.25))
        return answer(cfg, home, request)

    ask(before, 0)
    with pytest.raises(UserError, match=r"entered with another plan: event PureRelease.*0\.5"):
        ask(after, QUERIES)
    for changed in (
        config(epsilon=0.5, insecure_seeded_noise=True),
        config(epsilon=0.5, insecure_seeded_noise=False, asks_per_image=2),
        config(epsilon=0.5, insecure_seeded_noise=False, answers=10 * QUERIES),
    ):
        with pytest.raises(UserError, match="entered with another plan"):
            ask(changed, QUERIES)
    ask(before, QUERIES)
    ask(after, 0, run="another")  # a run of its own, with a line of its own
    runs = Ledger(home.ledger_folder, home.ledger_uuid).runs()
    assert [(r.event, r.answers) for r in runs] == [
        (PureRelease(0.5), 2 * QUERIES), (PureRelease(30.0), QUERIES),
    ]  # fmt: skip


class Leaving(Relay):
    """A grid from which one node is away for a while."""

    def __init__(self, grid):
        super().__init__(grid)
        self.away = set()

    def get_node_ids(self):
        return [n for n in self.grid.get_node_ids() if n not in self.away]


def test_a_client_that_comes_back_says_again_who_it_is(tmp_path):
    cfg = config(federated=FAST | {"quorum": 2})
    grids = []

    def wrap(grid):
        grids.append(Leaving(grid))
        return grids[-1]

    oracle = door(cfg, tmp_path, wrap=wrap)
    (grid,) = grids
    oracle.answer(images(), uniform)
    asked = [m.metadata.dst_node_id for m in grid.sent if m.metadata.message_type.endswith("hello")]
    node = next(iter(oracle._roster.clients))
    grid.away.add(node)
    oracle._roster.meet()
    grid.away.clear()
    grid.sent.clear()
    oracle._roster.meet()
    again = [m.metadata.dst_node_id for m in grid.sent if m.metadata.message_type.endswith("hello")]
    assert sorted(asked) == sorted(oracle._roster.clients) and again == [node]


def test_answers_under_other_settings_are_left_out_and_the_client_is_asked_again(
    tmp_path, monkeypatch
):
    cfg = config(federated=FAST | {"quorum": 2})
    oracle = door(cfg, tmp_path)
    oracle.answer(images(), uniform)
    changed = config(federated=FAST | {"quorum": 2}, explore=0.9)
    usual = Node.answer

    def restarted(self, content):
        if self.home.clients == [1]:
            self.config = changed
        return usual(self, content)

    monkeypatch.setattr(Node, "answer", restarted)
    oracle.answer(images(seed=1), uniform)
    (row,) = [r for r in oracle.table.rows() if r["round"] == 1 and r["failure"]]
    assert row["node"] == "client 1" and "other settings" in row["failure"]
    with pytest.raises(UserError, match="client 1: other privacy"):
        oracle._roster.meet()
