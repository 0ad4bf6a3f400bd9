import pytest

from dpsd.config import parse_config
from dpsd.errors import UserError
from dpsd.privacy.plan import make_plan
from dpsd.student.bank import Bank
from dpsd.transcription import session


def config(privacy, loop=None):
    tree = {"privacy": {"epsilon": 1.0} | privacy, "loop": {"rounds": 10} | (loop or {})}
    return parse_config(tree)


def test_memory_is_that_of_the_bank_and_a_round():
    c = config({"answers": 5000}, {"window": 300, "queries_per_round": 500})
    bank = Bank(300, (1, 28, 28), 10)
    held = sum(t.numel() * t.element_size() for t in (bank.images, bank.scores))
    assert session.expected_bytes(c, make_plan(c)) == held + 500 * (28 * 28 + 8)


def test_a_bank_too_big_for_memory_is_refused(monkeypatch):
    c = config({"answers": 100_000})
    need = session.expected_bytes(c, make_plan(c))
    monkeypatch.setattr(session, "available_bytes", lambda: need)
    session.check_memory(c, make_plan(c))
    monkeypatch.setattr(session, "available_bytes", lambda: need - 1)
    with pytest.raises(UserError, match=r"loop.window: 400000 .* lower loop.window"):
        session.check_memory(c, make_plan(c))


def test_available_bytes_is_plausible():
    assert 2**24 < session.available_bytes() <= 2**62
