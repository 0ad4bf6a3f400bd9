"""Every attack learns more than from shuffled answers, pays for each image and refuses the rest."""

import pytest
from extraction_digits import FACTS, agreement, clones, holdings, shuffled, victim

from dpsd.attacks.extraction.attacks import ATTACKS
from dpsd.attacks.extraction.endpoint import BudgetSpent, Service
from dpsd.defences import Labels, TopK
from dpsd.errors import UserError

SPECIAL = ("equations", "relu", "recovery")  # another victim, another endpoint: tests of their own
WEAK = ("synthetic", "dfme", "adapted")  # made for other pools, or for larger budgets
PLAIN = [name for name in ATTACKS if name not in SPECIAL]


@pytest.mark.parametrize("name", PLAIN)
def test_an_attack_beats_its_floor(name: str) -> None:
    """The count of images is compared with the service's in `clones`, for each clone."""
    held, attack = holdings(60, 180), ATTACKS[name].run
    first, last = clones(attack, held, accounts=3)
    floor = clones(shuffled(attack), held, accounts=3)[-1]
    assert last.asked > first.asked > 0
    assert agreement(last) > agreement(floor) + (0.05 if name in WEAK else 0.2)


@pytest.mark.parametrize("name", [n for n, a in ATTACKS.items() if a.needs == "probabilities"])
def test_attacks_on_probabilities_refuse_labels(name: str) -> None:
    held = holdings(20, known=(TopK(),))
    with pytest.raises(UserError, match=rf"{name}.*labels.*accepted: an endpoint that gives"):
        clones(ATTACKS[name].run, held, defences=[Labels()])


@pytest.mark.parametrize("name", ["basic", "marich", "synthetic", "neighbours", "accounts"])
def test_attacks_on_labels_learn_from_labels(name: str) -> None:
    (clone,) = clones(ATTACKS[name].run, holdings(180), defences=[Labels()], accounts=3)
    assert agreement(clone) > (0.2 if name in WEAK else 0.5)


def test_the_same_seed_gives_the_same_clone() -> None:
    one, other = (clones(ATTACKS["active"].run, holdings(60))[0] for _ in range(2))
    assert agreement(one) == agreement(other)


def test_a_ladder_above_the_budget_is_refused_by_the_endpoint() -> None:
    attack, held = ATTACKS["basic"].run, holdings(20, 60)
    with Service(victim(), FACTS, budget=50) as endpoint:
        given = attack(endpoint, held)
        assert next(given).asked == 20
        with pytest.raises(BudgetSpent):
            next(given)
