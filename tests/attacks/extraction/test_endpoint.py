"""The metered line: what is counted, refused and out of an attack's reach."""

import types
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from dpsd.attacks.extraction.endpoint import BudgetSpent, Endpoint, Service
from dpsd.config import PublicFacts
from dpsd.defences import Labels
from dpsd.errors import UserError

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
    """Neither attributes, containers nor closures of what an attack holds lead to the victim."""
    victim = Counting()
    with Service(victim.ask, FACTS, budget=9) as api:
        found = list(_reachable(api))
        assert any(isinstance(x, Endpoint) for x in found)
        assert not any(x is victim or isinstance(x, Counting | Service) for x in found)
        leak: Any = api
        leak.hidden = {"deep": [lambda: victim]}  # the walk does find what is there
        assert any(x is victim for x in _reachable(api))


def _reachable(root: object) -> Iterator[object]:
    """All objects behind attributes, slots, containers, closures, bound methods and defaults."""
    seen, todo = set[int](), [root]
    while todo:
        x = todo.pop()
        if id(x) in seen or isinstance(x, type | types.ModuleType):
            continue
        seen.add(id(x))
        yield x
        todo.extend(getattr(x, "__dict__", {}).values())
        names = [n for k in type(x).__mro__ for n in getattr(k, "__slots__", ())]
        todo.extend(getattr(x, n) for n in names if hasattr(x, n))
        if isinstance(x, dict):
            todo += [*x, *x.values()]
        elif isinstance(x, list | tuple | set | frozenset):
            todo += [*x]
        if isinstance(x, types.MethodType):
            todo += [x.__self__, x.__func__]
        if isinstance(x, types.FunctionType):
            todo += [c.cell_contents for c in x.__closure__ or ()]
            todo += [x.__defaults__, x.__kwdefaults__]
