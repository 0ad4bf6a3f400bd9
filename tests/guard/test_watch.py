"""Strange questions raise suspicion, honest ones do not; the log reproduces each decision."""

import time
from dataclasses import replace

import numpy as np
import pytest
from watching import honest_reference, questions

from dpsd.errors import UserError
from dpsd.guard.accounts import add_account
from dpsd.guard.actions import clear, hold, release
from dpsd.guard.detection.calibrate import calibrate, highest, windows
from dpsd.guard.detection.detectors import DETECTORS, WEIGHTS, weights
from dpsd.guard.detection.evidence import Evidence
from dpsd.guard.detection.reference_file import read_reference, save_reference
from dpsd.guard.detection.sketch import WINDOW, Sketch
from dpsd.guard.detection.traffic import GROUPS, Bank, honest_accounts
from dpsd.guard.detection.watch import Background, Observation, Watch
from dpsd.guard.guard import Guard
from dpsd.guard.limits import Limits, Tier
from dpsd.guard.policy import Level, Policy, replayed
from dpsd.guard.storage.sqlite_store import SqliteStore

POLICY = Policy(
    (Level("observe", 0.4), Level("slow", 0.7, rate=0.5), Level("block", 1.0, block=True)),
    dry_run=False,
)


@pytest.fixture(scope="module")
def reference():
    return honest_reference()


@pytest.fixture
def watch(tmp_path, reference):
    store = SqliteStore(tmp_path / "guard.sqlite")
    yield Watch(store, reference, POLICY)
    store.close()


def ask(watch, n, *, account="a", seed=1, batch=8, **kind):
    features, answers = questions(np.random.default_rng(seed), n, **kind)
    for start in range(0, n, batch):
        part = slice(start, start + batch)
        last = watch.observe(Observation(account, 1e9 + 7.3 * start, features[part], answers[part]))
    return last


def test_questions_from_elsewhere_are_noticed_and_honest_ones_are_not(watch):
    assert ask(watch, 640).level == ""
    other = ask(watch, 640, account="b", shift=3.0)
    assert other.suspicion >= 1 and other.level == "block"
    assert "do not come from where honest ones come from" in other.reason
    levels = [e["level"] for e in watch.store.events("b") if e["kind"] == "level"]
    assert levels[-1] == "block" and all(isinstance(x, str) for x in levels)


def test_the_log_reproduces_evidence_and_levels(watch, reference):
    ask(watch, 320, shift=3.0)
    found = [e for e in watch.store.events("a") if e["kind"] == "window"]
    assert len(found) == 10
    evidence, suspicions = Evidence(), []
    for event in found:
        evidence = reference.after(evidence, np.array([event["statistics"][d] for d in DETECTORS]))
        suspicions.append(reference.suspicion(evidence))
    assert np.allclose(suspicions, [e["suspicion"] for e in found])
    assert replayed(POLICY, suspicions)[-1] == watch.store.watched("a").level


def test_requests_of_one_and_of_many_images_are_the_same_windows(watch):
    one = ask(watch, 96, account="one", batch=1, shift=1.0)
    many = ask(watch, 96, account="many", batch=96, shift=1.0)
    found = [[e["statistics"]["mmd"] for e in watch.store.events(a) if e["kind"] == "window"]
             for a in ("one", "many")]  # fmt: skip
    assert np.allclose(*found, rtol=1e-4) and one.windows == many.windows == 3


def test_a_sketch_is_bounded_and_survives_the_store(watch):
    small, large = ask(watch, 8).sketch, ask(watch, 4_000, batch=250).sketch
    assert len(small) == len(large) < 20 * 1024
    assert Sketch(large)["asked"] == 4_008 and len(Sketch(large).points()) == 32
    assert Sketch(b"of another version")["asked"] == 0


def test_suspicion_falls_when_an_account_asks_honestly_again(watch):
    assert ask(watch, 640, shift=3.0).level == "block"
    assert ask(watch, 6_000, seed=3, batch=200).level == ""


def test_what_an_operator_does_by_hand_stays_until_it_is_released(watch):
    ask(watch, 64)
    hold(watch.store, POLICY, "a", "slow", by="operator", reason="a call")
    assert ask(watch, 640, shift=3.0, seed=4).level == "slow"
    release(watch.store, "a", by="operator")
    assert ask(watch, 64, shift=3.0, seed=5).level == "block"
    clear(watch.store, "a", by="operator")
    assert watch.store.watched("a").level == "" and watch.store.watched("a").suspicion == 0
    with pytest.raises(UserError, match="accepted: observe, slow, block"):
        hold(watch.store, POLICY, "a", "jail", by="operator", reason="")


def test_what_an_operator_does_between_looking_and_writing_stays(watch, monkeypatch):
    ask(watch, 64, shift=3.0)
    before, together = watch.store.watched("a"), watch.store.together

    def meanwhile():
        monkeypatch.undo()
        hold(watch.store, POLICY, "a", "slow", by="operator", reason="a call")
        return together()

    monkeypatch.setattr(watch.store, "together", meanwhile)
    after = ask(watch, 64, batch=64, shift=3.0, seed=4)
    assert after.held and after.level == "slow" and after.reason == "a call"
    assert after.windows == before.windows + 2
    assert sum(e["kind"] == "window" for e in watch.store.events("a")) == 4


def test_charges_do_not_wait_for_detection(watch, monkeypatch):
    """While windows are computed, the store is open to other writers."""
    other, charged = SqliteStore(watch.store.path), []

    def slow(*args):
        charged.append(other.charge("b", 1, 1e9, None))
        return look(*args)

    look = watch._look
    monkeypatch.setattr(watch, "_look", slow)
    start = time.monotonic()
    ask(watch, 64, batch=64)
    other.close()
    assert charged == [1] and time.monotonic() - start < 4  # a locked store is waited for 5 s


def test_false_alarms_of_new_honest_accounts(reference):
    """The level holds for accounts that the calibration has not seen."""
    rng = np.random.default_rng(11)
    features, answers = questions(rng, 2_000)
    bank = reference.benign.rows(features, answers)
    streams = honest_accounts(Bank(answers.argmax(1)), 400, median=100, seed=12)
    assert {group for group, _ in streams} == set(GROUPS)
    values = [np.stack(found) for _, s in streams
              if (found := list(windows(reference.benign, bank, s)))]  # fmt: skip
    alarms = sum(highest(reference, v) >= reference.level for v in values)
    assert alarms <= 20  # 8 are meant; more than 20 have probability below 1e-4


def test_what_no_honest_account_ever_showed_is_evidence_by_itself(reference):
    """Up to the highest of honest windows nothing changes; three times that is an alarm at once."""
    usual = reference.highest * 0.9
    assert (reference.highest > 0).any() and reference.surprise(usual) == 1
    assert reference.surprise(np.zeros(len(usual))) == 1
    for i in np.flatnonzero(reference.highest > 0):
        values = usual.copy()
        values[i] = 1.5 * reference.highest[i]
        assert reference.surprise(values) == pytest.approx(1.5**8)
    i = int(reference.highest.argmax())
    values = usual.copy()
    values[i] = 3 * reference.highest[i]
    before, after = Evidence(), reference.after(Evidence(), values)
    plain = reference.discount * float(reference.e_values(values) @ weights(reference.benign))
    assert after.value == pytest.approx(plain * 3**8 / 2 + 1 / 2)
    assert reference.suspicion(before) == 0 and reference.suspicion(after) > 1


def test_a_reference_is_written_and_read(tmp_path, reference):
    path = tmp_path / "guard" / "reference.npz"
    save_reference(reference, path)
    read = read_reference(path)
    values = np.full(len(DETECTORS), 0.3)
    assert np.array_equal(read.e_values(values), reference.e_values(values))
    assert (read.level, read.discount, read.information) == (
        reference.level, reference.discount, reference.information)  # fmt: skip
    assert path.stat().st_mode & 0o077 == 0
    path.write_bytes(b"no numbers")
    with pytest.raises(UserError, match="dpsd guard calibrate"):
        read_reference(path)


def test_a_reference_that_is_too_small_says_how_many_accounts_it_needs():
    rng = np.random.default_rng(0)
    features, answers = questions(rng, 2_000)
    streams = [s for _, s in honest_accounts(Bank(answers.argmax(1)), 400, median=150, seed=0)]
    with pytest.raises(UserError, match="needs at least 999"):
        calibrate(features, answers, None, streams, alpha=0.001, seed=0)


def test_features_of_another_length_are_refused(reference):
    with pytest.raises(UserError, match="length 3; accepted: 8"):
        reference.benign.rows(np.zeros((2, 3), np.float32), np.ones((2, 3), np.float32))


def test_clusters_are_looked_for_while_somebody_asks(tmp_path, reference):
    """Forty accounts of one network ask the same strange questions, each too few for a window."""
    store = SqliteStore(tmp_path / "guard.sqlite")
    beside = SqliteStore(tmp_path / "guard.sqlite")
    tiers = {"trial": Tier(1_000)}
    guard = Guard(store, Limits(tiers, 10_000, 10_000, store), POLICY, reference, bytes(32),
                  beside=beside, clusters_every=0.0)  # fmt: skip
    rng = np.random.default_rng(8)
    accounts = [add_account(store, bytes(32), f"a{i}", "trial")[0] for i in range(40)]
    for i, account in enumerate(accounts):
        features, answers = questions(rng, 24, shift=3.0 if i < 20 else 0.0)
        network = "10.0.0.0/24" if i < 20 else f"10.1.{i}.0/24"
        found = guard.indicators(account, network=network)
        guard.observe(Observation(account.id, 1e9 + 1e5 * i, features, answers, indicators=found))
    guard.drain()
    priors = {a.name: store.watched(a.id).prior for a in accounts}
    assert guard.state()["failed"] == 0
    guard.close()
    strange = [priors[f"a{i}"] for i in range(20)]
    assert min(strange) > 0 and max(priors[f"a{i}"] for i in range(20, 40)) == 0


def test_weights_make_an_e_value():
    assert np.isclose(WEIGHTS.sum(), 1) and (WEIGHTS > 0).all()


def test_observations_are_dropped_and_counted_and_errors_do_not_stop_the_thread():
    seen = []

    def observe(what):
        if "bad" in what:
            raise RuntimeError("broken")
        seen.extend(what)

    background = Background(observe)
    for what in ("bad", "good"):
        background.put(what)
        background.drain()
    assert seen == ["good"] and background.failed == 1 and "broken" in background.error
    background.close()
    for _ in range(2_001):  # nobody takes them any more
        background.put("late")
    assert background.dropped >= 1


@pytest.mark.parametrize("suspicions, levels", [
    ([0.1, 0.5, 0.3, 0.1], ["", "observe", "observe", ""]),
    ([1.2, 0.6, 0.4, 0.25], ["block", "block", "slow", "observe"]),
])  # fmt: skip
def test_levels_are_left_slowly(suspicions, levels):
    assert replayed(POLICY, suspicions) == levels


def test_a_policy_of_levels_that_do_not_rise_is_refused():
    with pytest.raises(UserError, match="in rising order"):
        Policy((Level("b", 1.0), Level("a", 0.5)))
    assert replace(POLICY, dry_run=True).effective("block") is None
    assert WINDOW == 32
