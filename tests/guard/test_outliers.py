"""The detector that was shown an attacker's questions, and hidden ones among honest ones."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from watching import questions

from dpsd.cli import main
from dpsd.errors import UserError
from dpsd.guard.detection import calibrate as calibrate_module
from dpsd.guard.detection.calibrate import Stream, all_windows, calibrate, highest
from dpsd.guard.detection.detectors import DETECTORS, weights
from dpsd.guard.detection.evidence import Evidence
from dpsd.guard.detection.outliers import fit_outliers
from dpsd.guard.detection.reference_file import read_reference, save_reference
from dpsd.guard.detection.traffic import Bank, honest_accounts

STRANGE = {"shift": 1.5, "spread": 0.7}


def taught(seed=0):
    """A detector that has seen honest and strange questions."""
    rng = np.random.default_rng(seed)
    return fit_outliers(*questions(rng, 1_500), questions(rng, 800, **STRANGE), seed)


@pytest.fixture(scope="module")
def references():
    """Calibrated on the same honest accounts, without and with the detector."""
    rng = np.random.default_rng(7)
    features, answers = questions(rng, 2_000)
    bank = Bank(answers.argmax(1))
    streams = [s for _, s in honest_accounts(bank, 800, median=100, seed=7)]
    return [calibrate(features, answers, None, streams, alpha=0.02, seed=7, outliers=outliers)
            for outliers in (None, taught())]  # fmt: skip


def test_scores_are_low_for_honest_and_high_for_strange_questions():
    """Of questions that it never saw; one by one as in a batch, and never below 0."""
    rng, outliers = np.random.default_rng(1), taught()
    honest, strange = questions(rng, 1_000), questions(rng, 1_000, **STRANGE)
    low, high = outliers.score(*honest), outliers.score(*strange)
    assert low.min() >= 0
    assert (high[:, None] > low[None]).mean() > 0.9
    alone = [outliers.score(honest[0][i : i + 1], honest[1][i : i + 1])[0] for i in range(5)]
    np.testing.assert_allclose(alone, low[:5], rtol=1e-4, atol=1e-6)


def test_the_score_is_the_log_ratio_of_a_mixture():
    """Its mean over questions of the mixture is above that over honest ones by about its gain."""
    rng, outliers = np.random.default_rng(2), taught()
    low, high = (outliers.score(*questions(rng, 4_000, **kind)).mean() for kind in ({}, STRANGE))
    assert low + np.log(0.9) < 0 < 0.9 * low + 0.1 * high + np.log(0.9)


def test_classes_that_are_rare_among_outliers_do_not_matter():
    """Few outliers and many honest questions, or the other way round: odds stay a ratio."""
    rng = np.random.default_rng(3)
    few = fit_outliers(*questions(rng, 3_000), questions(rng, 150, **STRANGE), 0)
    scores = few.score(*questions(rng, 2_000))
    assert scores.mean() < 0.4


def test_an_attack_among_nine_honest_questions_each_is_noticed(references):
    """By the guard that was shown such questions, in most accounts; by the other in few."""
    rng, count = np.random.default_rng(4), 40
    caught = []
    for reference in references:
        found = 0
        for _ in range(count):
            honest, strange = questions(rng, 900), questions(rng, 100, **STRANGE)
            order = rng.permutation(1_000)
            features, answers = (np.concatenate(pair)[order]
                                 for pair in zip(honest, strange, strict=True))  # fmt: skip
            rows = reference.benign.rows(features, answers)
            at = np.cumsum(rng.exponential(60, 1_000))
            values = all_windows(reference.benign, rows, Stream(np.arange(1_000), at))
            found += highest(reference, values) >= reference.level
        caught.append(found / count)
    assert caught[1] > 0.9 > caught[0] + 0.3


def test_honest_accounts_stay_below_the_level(references):
    """Accounts about questions that no calibration saw, at a rate of 2 %."""
    rng = np.random.default_rng(5)
    features, answers = questions(rng, 2_000)
    streams = [s for _, s in honest_accounts(Bank(answers.argmax(1)), 600, median=100, seed=5)]
    rows = references[1].benign.rows(features, answers)
    alarms = [highest(references[1], all_windows(references[1].benign, rows, s))
              >= references[1].level for s in streams]  # fmt: skip
    assert np.mean(alarms) <= 0.02 + 3 * np.sqrt(0.02 * 0.98 / 600)


def test_a_reference_in_a_file_scores_the_same(references, tmp_path):
    """With the detector, and without it."""
    questions_ = questions(np.random.default_rng(6), 50)
    for reference in references:
        save_reference(reference, tmp_path / "reference.npz")
        again = read_reference(tmp_path / "reference.npz")
        np.testing.assert_array_equal(again.benign.rows(*questions_).outlier,
                                      reference.benign.rows(*questions_).outlier)  # fmt: skip
        values = np.ones(len(again.highest))
        assert again.after(Evidence(), values).value == reference.after(Evidence(), values).value


def logged(path, features, accounts):
    """Features of questions as logs, so many accounts in turn, one question every six minutes."""
    n = len(features) // accounts * accounts
    pq.write_table(pa.table({
        "account": np.repeat(np.arange(accounts), n // accounts),
        "at": np.tile(np.arange(n // accounts) * 360.0, accounts), "features": list(features[:n]),
    }), path)  # fmt: skip
    return str(path)


def test_a_guard_of_another_application_is_calibrated_on_logs_alone(tmp_path, capsys):
    """Without a run and without answers; shown outliers, it knows them."""
    rng = np.random.default_rng(8)
    honest = logged(tmp_path / "honest.parquet", questions(rng, 110 * 330)[0], 110)
    strange = questions(rng, 600, **STRANGE)[0]
    outliers = logged(tmp_path / "strange.parquet", strange, 2)
    out = tmp_path / "guard" / "reference.npz"
    command = ["guard", "calibrate", "--logs", honest, "--alpha", "0.05"]
    assert main([*command, "--out", str(out), "--outliers", outliers]) == 0
    assert "110 logged accounts" in "".join(capsys.readouterr())
    guard = read_reference(out)
    none = np.ones((600, 1), np.float32)
    high = guard.benign.rows(strange, none).outlier
    low = guard.benign.rows(questions(rng, 600)[0], none).outlier
    assert high.mean() > 3 * low.mean()
    assert main([*command, "--out", str(out)]) == 0
    assert read_reference(out).benign.outliers is None


@pytest.mark.parametrize(("options", "says"), [
    ([], "calibrate: no RUN; accepted without one: --logs and --out"),
    (["--out", "x.npz", "--outliers", "narrow"], "--outliers: features of 3 numbers; accepted: 8"),
    (["--out", "x.npz", "--outliers", "few"], "--outliers: 40 questions; accepted: at least 500"),
    (["--out", "x.npz", "--alpha", "0.0001"], "--logs: 60 accounts"),
])  # fmt: skip
def test_what_cannot_be_calibrated_is_one_line(options, says, tmp_path, capsys, monkeypatch):
    """And nothing is written."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(9)
    honest = logged(tmp_path / "honest.parquet", questions(rng, 60 * 200)[0], 60)
    logs = {"narrow": logged(tmp_path / "narrow.parquet", questions(rng, 600)[0][:, :3], 2),
            "few": logged(tmp_path / "few.parquet", questions(rng, 40)[0], 2)}  # fmt: skip
    options = [logs.get(option, option) for option in options]
    assert main(["guard", "calibrate", "--logs", honest, "--alpha", "0.1", *options]) == 2
    assert says in capsys.readouterr().err
    assert not (tmp_path / "x.npz").exists()


def test_where_answers_are_missing_on_one_side_they_say_nothing():
    """Answers that calibration never saw, or the other way round; other classes do not fit."""
    rng = np.random.default_rng(10)
    (honest, said), (strange, strange_said) = questions(rng, 800), questions(rng, 800, **STRANGE)
    one = np.ones((800, 1), np.float32)
    with_answers, without = taught(), fit_outliers(honest, one, (strange, one), 0)
    assert without.score(strange, strange_said) == pytest.approx(without.score(strange, one))
    for outliers, high, low in ((with_answers, one, one), (without, strange_said, said)):
        assert outliers.score(strange, high).mean() > 2 * outliers.score(honest, low).mean()
    with pytest.raises(UserError, match="answers: 2 classes; accepted: 3, as calibrated"):
        with_answers.score(honest, said[:, :2])


def test_without_outliers_no_weight_is_lost(references):
    """The part of the detector that knows nothing goes to the one of means."""
    plain, shown = (weights(reference.benign) for reference in references)
    assert plain.sum() == pytest.approx(1) and shown.sum() == pytest.approx(1)
    assert plain[list(DETECTORS).index("outliers")] == 0 and (shown > 0).all()


def test_all_that_one_owner_asked_is_in_one_part():
    """An account with several months teaches, or sets tails, or sets the level."""
    streams = [Stream(np.arange(2), np.zeros(2), owner=f"o{i % 7}") for i in range(50)]
    parts = list(calibrate_module._parts(streams, np.random.default_rng(0)))
    owners = [{s.owner for s in part} for part in parts]
    assert sum(map(len, parts)) == 50 and sum(map(len, owners)) == 7
    assert set.union(*owners) == {f"o{i}" for i in range(7)}


def test_hashes_of_an_embedder_are_read_where_the_calibration_had_them(tmp_path):
    """Else near-duplicates would be judged by what other hashes say."""
    rng = np.random.default_rng(11)
    features, answers = questions(rng, 2_000)
    hashes = rng.integers(0, 2**63, 2_000).astype(np.uint64)
    streams = [s for _, s in honest_accounts(Bank(answers.argmax(1)), 300, median=100, seed=1)]
    given, own = (calibrate(features, answers, h, streams, alpha=0.1, seed=1).benign
                  for h in (hashes, None))  # fmt: skip
    assert (given.rows(features[:5], answers[:5], hashes[:5]).hashes == hashes[:5]).all()
    with pytest.raises(UserError, match="hashes: none; accepted: the embedder's, as calibrated"):
        given.rows(features[:5], answers[:5])
    assert (own.rows(features[:5], answers[:5], hashes[:5]).hashes
            == own.rows(features[:5], answers[:5]).hashes).all()  # fmt: skip
