"""Names of classes: declared in the configuration, shown wherever classes are named."""

import pytest

from dpsd.config import public_facts
from dpsd.config.sections import DataConfig
from dpsd.errors import UserError

BARE = {"name": "none", "shape": (1, 8, 8), "classes": 2}


def test_declared_names_are_public_facts_and_numbers_stand_in_for_them():
    assert public_facts(DataConfig(**BARE)).class_names == ("0", "1")
    named = DataConfig(**BARE, class_names=("fine", "defect"))
    assert public_facts(named).class_names == ("fine", "defect")


@pytest.mark.parametrize("names", [("fine",), ("a", "b", "c"), ("a", "a"), ("a", ""), ("a", "b\n")])
def test_names_that_do_not_fit_the_classes_are_refused(names):
    with pytest.raises(UserError, match=r"data\.class_names: . names; accepted: 2 different ones"):
        public_facts(DataConfig(**BARE, class_names=names))


def test_a_named_data_set_has_its_own():
    with pytest.raises(UserError, match=r"data\.class_names: mnist has names of its own"):
        public_facts(DataConfig(name="mnist", class_names=("a",) * 10))
