"""Fixtures of the privacy tests."""

import pytest
from oracles import Teacher, plan

from dpsd.privacy.ledger import Ledger
from dpsd.privacy.oracle import Oracle


@pytest.fixture
def make(tmp_path):
    def build(teacher=None, run="r", folder="teacher", keep=None, seed=0, batch=512, **options):
        ledger = Ledger(tmp_path / folder, "t")
        p = plan(**options)
        return Oracle(teacher or Teacher(), p, ledger, run, keep=keep, seed=seed, batch=batch)

    build.ledger = lambda folder="teacher": Ledger(tmp_path / folder, "t")
    return build
