import multiprocessing
import re
from dataclasses import replace

import pytest

from dpsd.errors import BudgetError, UserError
from dpsd.privacy import accounting
from dpsd.privacy.events import GaussianRelease, OpenRelease, PureRelease, VotesRelease
from dpsd.privacy.ledger import Ledger
from dpsd.privacy.record import RunRecord
from dpsd.privacy.units import TEST_RECORD

DELTA = 1e-5
VOTES = RunRecord("first", VotesRelease(20.0), cap=4, unit="record", route="ensemble")


def gaussian(run, mu, unit="record", **other):
    return RunRecord(run, GaussianRelease(mu, 1.0), cap=1, unit=unit, **other)


def epsilon_of(*mus):
    """Of Gaussian releases together: the root of the sum of their squared mu."""
    return accounting.gaussian_epsilon(sum(mu**2 for mu in mus) ** 0.5, DELTA)


@pytest.fixture
def ledger(tmp_path):
    return Ledger(tmp_path, "t")


def _race(folder, name, start, said):
    ledger = Ledger(folder, "t")
    start.wait()
    try:
        ledger.open_run(replace(VOTES, run=name))
        said.put((name, ""))
    except BudgetError as e:
        said.put((name, str(e)))


@pytest.mark.parametrize("attempt", range(4))
def test_of_two_processes_that_race_for_the_last_of_a_budget_one_is_admitted(ledger, attempt):
    one, two = (accounting.compose_epsilon([(VOTES.event, VOTES.cap * n)], DELTA) for n in (1, 2))
    ledger.set_allowance("record", (one + two) / 2, DELTA)
    context = multiprocessing.get_context("fork")
    start, said = context.Barrier(2), context.Queue()
    racers = [
        context.Process(target=_race, args=(ledger.path.parent, name, start, said))
        for name in ("left", "right")
    ]
    for racer in racers:
        racer.start()
    told = dict(said.get(timeout=60) for _ in racers)
    for racer in racers:
        racer.join()
    admitted = [name for name, message in told.items() if not message]
    refused = [message for message in told.values() if message]
    assert [r.run for r in ledger.runs()] == admitted and len(admitted) == 1
    (message,) = refused
    assert (
        f"of which {one:.6g} is spent; this run would make it {two:.6g} for one record" in message
    )
    assert re.search(r"accepted: a run of up to epsilon 0\.\d+ for one record$", message)


def accepted(message):
    return float(re.search(r"up to epsilon ([\d.e-]+) for one record$", message)[1])


@pytest.mark.parametrize(
    ("before", "new", "quieter"),
    [
        (gaussian("a", 1.0), gaussian("b", 1.0), lambda mu: GaussianRelease(mu, 1.0)),
        (gaussian("a", 0.1), gaussian("b", 9.0), lambda mu: GaussianRelease(mu, 1.0)),
    ],
)
def test_what_would_fit_fits_and_little_more_does_not(ledger, before, new, quieter):
    budget = epsilon_of(1.2)
    ledger.set_allowance("record", budget, DELTA)
    ledger.open_run(before)
    with pytest.raises(BudgetError, match="budget of the data set") as error:
        ledger.open_run(new)
    mu = accounting.gaussian_mu(accepted(str(error.value)), DELTA)
    exact = (1.2**2 - before.event.mu**2) ** 0.5
    assert 0.99 * exact < mu < 1.0001 * exact
    with pytest.raises(BudgetError):
        ledger.open_run(replace(new, event=quieter(1.01 * exact)))
    ledger.open_run(replace(new, event=quieter(0.999 * mu)))
    assert [r.run for r in ledger.runs()] == ["a", "b"]


def test_what_would_fit_fits_beside_votes(ledger):
    one, two = (accounting.compose_epsilon([(VOTES.event, n * VOTES.cap)], DELTA) for n in (1, 2))
    ledger.set_allowance("record", (one + two) / 2, DELTA)
    ledger.open_run(VOTES)
    with pytest.raises(BudgetError) as error:
        ledger.open_run(replace(VOTES, run="second"))
    fitting = accepted(str(error.value))
    noise = next(
        sigma
        for sigma in (20 * 1.02**i for i in range(200))
        if accounting.compose_epsilon([(VotesRelease(sigma), VOTES.cap)], DELTA) <= fitting
    )
    assert noise > 20
    ledger.open_run(replace(VOTES, run="second", event=VotesRelease(noise)))
    with pytest.raises(BudgetError):
        ledger.open_run(replace(VOTES, run="third", event=VotesRelease(noise)))


def test_a_full_budget_admits_nothing_more(ledger):
    ledger.set_allowance("record", epsilon_of(1.0), DELTA)
    ledger.open_run(gaussian("a", 1.0))  # what was calibrated to the budget fits it
    with pytest.raises(BudgetError, match="accepted: "):
        ledger.open_run(gaussian("b", 0.01))
    ledger.open_run(gaussian("a", 1.0))  # the run that is there may go on
    assert len(ledger.runs()) == 1


def test_runs_that_are_entered_together_are_judged_together(ledger):
    ledger.set_allowance("record", epsilon_of(1.2), DELTA)
    with pytest.raises(BudgetError, match="of which 0 is spent"):
        ledger.open_run(gaussian("a", 1.0), gaussian("b", 1.0))
    with pytest.raises(BudgetError):
        ledger.admit(gaussian("a", 1.0), gaussian("b", 1.0))
    assert ledger.runs() == []
    ledger.open_run(gaussian("a", 1.0))


def test_a_budget_below_what_is_spent_is_refused(ledger):
    ledger.open_run(gaussian("a", 1.0))
    spent = epsilon_of(1.0)
    with pytest.raises(UserError, match=rf"--epsilon: .* below what is spent: {spent:.6g} for one"):
        ledger.set_allowance("record", 0.99 * spent, DELTA)
    assert ledger.allowances() == []
    ledger.set_allowance("record", spent, DELTA)


def test_a_budget_for_an_unknown_unit_is_refused(ledger):
    with pytest.raises(UserError, match="--unit: answer; accepted: record, user, client"):
        ledger.set_allowance("answer", 1.0, DELTA)


def test_a_raised_budget_admits_more_and_stays_logged(ledger, tmp_path):
    ledger.set_allowance("record", epsilon_of(1.0), DELTA)
    ledger.open_run(gaussian("a", 1.0))
    with pytest.raises(BudgetError):
        ledger.open_run(gaussian("b", 1.0))
    before = ledger.head
    ledger.set_allowance("record", epsilon_of(2.0), DELTA)
    ledger.open_run(gaussian("b", 1.0))
    again = Ledger(tmp_path, "t")
    assert [a.epsilon for a in again.allowances()] == [epsilon_of(1.0), epsilon_of(2.0)]
    assert [a.epsilon for a in again.allowances(before)] == [epsilon_of(1.0)]
    assert all(a.set and a.delta == DELTA for a in again.allowances())


def test_a_lowered_budget_is_the_one_in_force(ledger):
    ledger.set_allowance("record", epsilon_of(2.0), DELTA)
    ledger.set_allowance("record", epsilon_of(1.0), DELTA)
    with pytest.raises(BudgetError):
        ledger.open_run(gaussian("a", 1.5))


@pytest.mark.parametrize(
    "entry",
    [
        RunRecord("open", OpenRelease(), cap=5, unit="record"),
        RunRecord("open", PureRelease(0.1), cap=5, unit="answer"),
        gaussian("open", 0.1, seeded_noise=True),
    ],
)
def test_an_open_entry_needs_to_be_allowed_and_so_does_all_after_it(ledger, entry):
    ledger.set_allowance("record", 1000.0, DELTA)
    with pytest.raises(BudgetError, match=r"would make it infinite .*; accepted: .*--allow-open"):
        ledger.open_run(entry)
    ledger.open_run(replace(entry, allow_open=True))
    assert ledger.runs()[0].allow_open  # logged
    with pytest.raises(BudgetError, match=r"infinite is spent; .*earlier run.* --allow-open"):
        ledger.open_run(gaussian("later", 0.1))
    ledger.open_run(gaussian("later", 0.1, allow_open=True))
    with pytest.raises(UserError, match="accepted: none, since an open release"):
        ledger.set_allowance("record", 1e6, DELTA)


def test_allowing_open_releases_allows_nothing_that_is_not_open(ledger):
    ledger.set_allowance("record", epsilon_of(1.0), DELTA)
    with pytest.raises(BudgetError):
        ledger.open_run(gaussian("a", 1.5, allow_open=True))


def test_a_budget_counts_what_its_unit_covers(ledger):
    """Noise for a user hides a record too; a run about test rows is about other rows."""
    ledger.set_allowance("record", epsilon_of(1.2), DELTA)
    ledger.open_run(gaussian("a", 1.0, unit="user"))
    ledger.open_run(gaussian("accuracy", 9.0, unit=TEST_RECORD))
    with pytest.raises(BudgetError, match=f"of which {epsilon_of(1.0):.6g} is spent"):
        ledger.open_run(gaussian("b", 1.0))


def test_a_budget_for_users_finds_records_open(ledger):
    ledger.set_allowance("user", 100.0, DELTA)
    with pytest.raises(BudgetError, match="nothing bounds what it tells of one user"):
        ledger.open_run(gaussian("a", 0.1, unit="record"))


def test_what_is_left_is_the_rest_of_the_budget(ledger):
    ledger.set_allowance("record", epsilon_of(1.2), DELTA)
    (allowance,) = ledger.allowances()
    left = allowance.left([gaussian("a", 1.0)])
    exact = epsilon_of((1.2**2 - 1.0) ** 0.5)
    assert 0.97 * exact < left <= exact
    assert allowance.left([gaussian("a", 1.2)]) == 0
    assert allowance.left([]) == allowance.epsilon
    assert allowance.left([RunRecord("a", OpenRelease(), cap=1, unit="record")]) == 0
