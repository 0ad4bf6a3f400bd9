"""Fixtures of the privacy tests."""

import pytest
import torch
from oracles import Teacher, plan

from dpsd.privacy.ledger import Ledger
from dpsd.privacy.oracle import Oracle


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Small tensors: threads would only wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def make(tmp_path):
    def build(teacher=None, run="r", folder="teacher", keep=None, seed=0, batch=512, **options):
        ledger = Ledger(tmp_path / folder, "t")
        p = plan(**options)
        return Oracle(teacher or Teacher(), p, ledger, run, keep=keep, seed=seed, batch=batch)

    build.ledger = lambda folder="teacher": Ledger(tmp_path / folder, "t")
    return build
