"""The metered line: what is counted, refused and out of an attack's reach."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from reachable import reachable
from torch import Tensor, nn

from dpsd.attacks.extraction.adaptive.fusion import Fused
from dpsd.attacks.extraction.attacks import ATTACKS, Named
from dpsd.attacks.extraction.clone import Clone, Holdings
from dpsd.attacks.extraction.endpoint import BudgetSpent, Endpoint, Service
from dpsd.attacks.extraction.matrix import KEY, Cell, run_cell
from dpsd.attacks.extraction.victim import Victim
from dpsd.config import PublicFacts
from dpsd.defences import Labels
from dpsd.errors import UserError
from dpsd.models.networks import build_model

FACTS = PublicFacts(shape=(1, 4, 4), classes=3, class_names=("a", "b", "c"))
IMAGES = torch.arange(5 * 16).reshape(5, 1, 4, 4).to(torch.uint8)


class Counting:
    """A victim that counts for itself."""

    def __init__(self) -> None:
        self.seen = 0

    def ask(self, images: Tensor) -> Tensor:
        self.seen += len(images)
        first = images.flatten(1)[:, :3].float()
        return (first - first.mean(1, keepdim=True)).softmax(1)


def test_the_count_equals_the_images_that_reached_the_victim() -> None:
    victim = Counting()
    with (service := Service(victim.ask, FACTS, budget=12, accounts=2)) as api:
        answers = api.ask(IMAGES)
        assert torch.equal(answers, victim.ask(IMAGES)) and answers.dtype == torch.float32
        victim.seen -= 5
        api.ask(IMAGES[:3], account=1)
        assert api.left == 4
    assert service.asked == victim.seen == 8 and service.by_account == {0: 5, 1: 3}


def test_what_is_over_the_budget_is_refused_before_the_victim_sees_it() -> None:
    victim = Counting()
    with (service := Service(victim.ask, FACTS, budget=7)) as api:
        api.ask(IMAGES)
        with pytest.raises(BudgetSpent, match="budget: 5 images asked, 2 left"):
            api.ask(IMAGES)
        assert victim.seen == 5 == service.asked
        api.left = 1_000  # an attack that lies to itself gains nothing
        with pytest.raises(BudgetSpent):
            api.ask(IMAGES)
        api.ask(IMAGES[:2])
    assert victim.seen == 7 == service.asked


def test_other_images_and_accounts_are_refused_in_one_line() -> None:
    with Service(Counting().ask, FACTS, budget=9) as api:
        for images in (IMAGES.float(), IMAGES[:, :, :3]):
            with pytest.raises(UserError, match=r"accepted: uint8 \[B, 1, 4, 4\]"):
                api.ask(images)
        with pytest.raises(UserError, match="account: 1; accepted: 0 to 0"):
            api.ask(IMAGES, account=1)
        assert api.left == 9
    with pytest.raises(UserError, match="budget: 0; accepted: from 1"):
        Service(Counting().ask, FACTS, budget=0)


def test_a_victim_with_another_number_of_classes_is_refused() -> None:
    text = r"answered \[5, 4\]; accepted: finite \[B, 3\]"
    four = Service(lambda x: torch.full((len(x), 4), 0.25), FACTS, budget=9)
    with four as api, pytest.raises(UserError, match=text):
        api.ask(IMAGES)


def test_a_victim_that_breaks_is_one_line_and_the_next_question_is_answered() -> None:
    victim, broken = Counting(), [True]

    def ask(images: Tensor) -> Tensor:
        if broken.pop():
            raise RuntimeError("out of order")
        return victim.ask(images)

    broken.insert(0, False)
    with (service := Service(ask, FACTS, budget=9)) as api:
        with pytest.raises(UserError, match=r"the model raised .*out of order"):
            api.ask(IMAGES[:2])
        assert len(api.ask(IMAGES[:3])) == 3
    assert service.asked == 5  # what reached the victim counts, answered or not


def test_labels_alone_are_announced() -> None:
    with Service(Counting().ask, FACTS, budget=9, defences=[Labels()]) as api:
        assert api.gives == "labels"
        assert api.ask(IMAGES).sort().values.unique(dim=0).tolist() == [[0, 0, 1]]


def test_the_victim_is_out_of_reach() -> None:
    """Neither attributes, containers nor closures of an endpoint lead to the victim."""
    victim = Counting()
    with Service(victim.ask, FACTS, budget=9) as api:
        found = list(reachable(api))
        assert any(isinstance(x, Endpoint) for x in found)
        assert not any(x is victim or isinstance(x, Counting | Service) for x in found)
        leak: Any = api
        leak.hidden = {"deep": [lambda: victim]}  # the walk does find what is there
        assert any(x is victim for x in reachable(api))


def test_fused_endpoints_lead_to_no_victim() -> None:
    one, other = Counting(), Counting()
    with Service(one.ask, FACTS, budget=9) as a, Service(other.ask, FACTS, budget=9) as b:
        fused = Fused([a, b])
        fused.ask(IMAGES)
        found = list(reachable(fused))
        assert a in found and b in found and one.seen + other.seen == 5
        assert not any(isinstance(x, Counting | Service) for x in found)


def test_all_that_a_cell_passes_to_an_attack_leads_to_no_victim_key_or_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Walked while the attack runs, after it has asked."""
    counting, rows = Counting(), IMAGES + 100
    victim = Victim("student", counting.ask, FACTS, "cnn-tiny")
    passed, found = list[object](), list[object]()

    def attack(*given: Any) -> Iterator[Clone]:
        endpoint, holdings = given
        passed.extend(given)
        endpoint.ask(holdings.pool)
        found.extend(reachable(*given))
        yield Clone(5, build_model("cnn-tiny", FACTS.shape, FACTS.classes).eval(), None)

    monkeypatch.setitem(ATTACKS, "basic", Named(attack, "labels", "looks around"))
    run_cell(
        Cell("student", "basic", "noise:size=0.2", 0), victim, Holdings(IMAGES.clone(), (9,)), rows,
        folder=tmp_path, identity="", say=[].append,
    )  # fmt: skip
    endpoint, holdings = passed
    assert isinstance(endpoint, Endpoint) and isinstance(holdings, Holdings)
    assert counting.seen == 5 and [d.name for d in holdings.known] == ["noise"]
    assert not any(isinstance(x, Counting | Service | Victim | nn.Module) for x in found)
    assert not any(isinstance(x, bytes) and x == KEY for x in found)
    assert not any(x is rows for x in found)
    tensors = [x for x in found if isinstance(x, Tensor)]
    assert len(tensors) == 1 and tensors[0] is holdings.pool
