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
    assert session.expected_bytes(c, make_plan(c)) == held + 500 * (2 * 28 * 28 + 8)


def test_a_bank_too_big_for_memory_is_refused(monkeypatch):
    c = config({"answers": 100_000})
    need = session.expected_bytes(c, make_plan(c))
    monkeypatch.setattr(session, "available_bytes", lambda: need)
    session.check_memory(c, make_plan(c))
    monkeypatch.setattr(session, "available_bytes", lambda: need - 1)
    with pytest.raises(UserError, match=r"loop.window: 400000 .* lower loop.window"):
        session.check_memory(c, make_plan(c))


def test_a_bank_on_disk_takes_no_memory():
    c = config({"answers": 1_200_000}, {"window": 1_200_000, "rounds": 1200})
    facts = {"data": {"name": "none", "shape": [3, 224, 224], "classes": 1000}}
    c = parse_config(c.model_dump(mode="json") | facts)
    plan, pixels = make_plan(c), 3 * 224 * 224
    small = config({"answers": 100})
    assert session.on_disk(c, plan) and not session.on_disk(small, make_plan(small))
    assert session.expected_bytes(c, plan) == 1000 * (2 * pixels + 8)
    scores = 1_200_000 * 4000
    assert session.disk_bytes(c, plan) == 1_200_000 * (pixels + 20_016) + scores


def test_parents_of_later_candidates_are_counted():
    c = config({"answers": 50_000})
    breeding = c.generator.model_copy(update={"select": 2, "recombine": 0.5})
    more = c.model_copy(update={"generator": breeding})
    with_, without = (session.expected_bytes(x, make_plan(c)) for x in (more, c))
    assert with_ - without == 10 * 1000 * 784 + 5000 * (3 * 784 + 8)


def test_images_too_many_for_the_disk_are_refused(monkeypatch, tmp_path):
    c = config({"answers": 100_000})
    need = session.disk_bytes(c, make_plan(c))
    monkeypatch.setattr(session, "free_bytes", lambda folder: need)
    session.check_disk(c, make_plan(c), tmp_path)
    monkeypatch.setattr(session, "free_bytes", lambda folder: need - 1)
    with pytest.raises(UserError, match=r"loop.window: 100000 images .* on the disk of .* --out"):
        session.check_disk(c, make_plan(c), tmp_path)
    (tmp_path / "private/bank").mkdir(parents=True)  # a stopped run has a part already
    (tmp_path / "private/bank/000000000000.safetensors").write_bytes(b"x")
    session.check_disk(c, make_plan(c), tmp_path)


def test_free_space_is_that_of_the_nearest_folder(tmp_path):
    found = session.free_bytes(tmp_path / "not" / "yet")
    assert found == pytest.approx(session.free_bytes(tmp_path), rel=0.2) and found > 0


def test_available_bytes_is_plausible():
    assert 2**24 < session.available_bytes() <= 2**62
