"""The commands for those who answer for a release: verify, ledger, budget, key."""

import json
import os
import shutil

import pytest
import yaml
from products import contents, few_config

from dpsd.cli import main
from dpsd.data.identity import dataset_folder, read_dataset
from dpsd.privacy.events import VotesRelease
from dpsd.privacy.ledger import Ledger, open_ledger
from dpsd.privacy.record import RunRecord
from dpsd.transcription.transcribe import transcribe


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("trust")
    transcribe(few_config(root), out=root / "run")
    return root


@pytest.fixture
def dpsd(root, capsys, monkeypatch):
    """Run a command; its exit code and what it said."""
    monkeypatch.setenv("DPSD_HOME", str(root / "teachers"))
    monkeypatch.chdir(root)

    def run(*words):
        code = main([str(w) for w in words])
        out, err = capsys.readouterr()
        out = out if code == 0 else "".join(out.partition("\n")[2:])
        assert code == 0 or (err.count("\n") == 1 and not out), err
        return code, out + err

    return run


def test_the_chain_of_trust(root, dpsd, tmp_path):
    run = root / "run"
    teacher = next((root / "teachers").glob("*/ledger.key")).parent
    code, text = dpsd("key", teacher, "--out", tmp_path / "owner.pub")
    assert code == 0 and "public key in" in text
    assert "BEGIN PUBLIC KEY" in (tmp_path / "owner.pub").read_text()
    assert (teacher / "ledger.key").stat().st_mode & 0o777 == 0o600
    code, text = dpsd(
        "verify", run / "release", "--key", tmp_path / "owner.pub", "--ledger", teacher
    )
    assert code == 0 and "which is the key in" in text and "checked: the ledger" in text
    assert text.startswith("verified: ") and "\nverified\n  checked: " in text
    code, text = dpsd("verify", run / "release", "--json")
    assert json.loads(text)["verified"]
    for words in (("ledger",), ("key", "--out", tmp_path / "again.pub")):
        assert dpsd(words[0], run, *words[1:])[0] == 0  # a run names its ledger
    assert (tmp_path / "again.pub").read_text() == (tmp_path / "owner.pub").read_text()
    code, text = dpsd("ledger", teacher)
    assert "composed epsilon, one answer" in text and "single" in text and "fresh" in text
    code, text = dpsd("ledger", "digits", "--json")
    facts = json.loads(text)
    assert facts["unit"] == "record" and facts["runs"][0]["composed_epsilon"] is None
    assert facts["runs"][0]["event"] == {"kind": "open"}
    assert "40 of 40" in dpsd("ledger", teacher)[1]
    code, text = dpsd("ledger", "digits")  # counted in the teacher's ledger, without a finite bound
    assert "in the teacher's ledger" in text and "unbounded (no finite epsilon)" in text
    assert " 0 of 40" not in text and " open " not in text


def test_a_key_that_does_not_fit(root, dpsd, tmp_path):
    dpsd("key", "digits", "--out", tmp_path / "other.pub")  # the data set's, not the teacher's
    release = root / "run" / "release"
    code, text = dpsd("verify", release, "--key", tmp_path / "other.pub")
    assert code == 2 and "not from the holder of your key" in text
    (tmp_path / "none.pub").write_text("no key")
    code, text = dpsd("verify", release, "--key", tmp_path / "none.pub")
    assert code == 2 and "no readable Ed25519 public key" in text
    code, text = dpsd("verify", release, "--key", tmp_path / "missing.pub")
    assert code == 2 and "missing.pub" in text


def test_a_key_that_others_may_read_signs_nothing(root, dpsd, tmp_path):
    shutil.copytree(dataset_folder(root / "teachers", "digits"), tmp_path / "copy")
    dpsd("key", tmp_path / "copy")
    os.chmod(tmp_path / "copy" / "ledger.key", 0o644)
    code, text = dpsd("key", tmp_path / "copy")
    assert code == 2 and "mode 0644; accepted: 0600" in text
    os.chmod(tmp_path / "copy" / "ledger.key", 0o600)
    (tmp_path / "copy" / "ledger.key").write_text("no key")
    code, text = dpsd("key", tmp_path / "copy")
    assert code == 2 and "no readable private key; restore it" in text


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda p: (p / "ledger.jsonl").unlink(), "cannot be read"),
        (lambda p: (p / "ledger.jsonl").write_text(""), "restore both"),
        (lambda p: (p / "ledger.jsonl").write_text("{}\n"), "line 1 is damaged"),
        (lambda p: (p / "ledger.head.json").write_text("{"), "missing or damaged"),
    ],
)
def test_a_damaged_ledger_is_refused_in_one_line(root, dpsd, tmp_path, damage, message):
    teacher = next((root / "teachers").glob("*/ledger.key")).parent
    shutil.copytree(teacher, tmp_path / "copy")
    damage(tmp_path / "copy")
    before = contents(tmp_path / "copy")
    code, text = dpsd("verify", root / "run" / "release", "--ledger", tmp_path / "copy")
    assert code == 2 and message in text
    code, text = dpsd("ledger", tmp_path / "copy")
    assert code == 2
    after = contents(tmp_path / "copy")
    assert {k: v for k, v in after.items() if not k.endswith(".lock")} == {
        k: v for k, v in before.items() if not k.endswith(".lock")
    }


def test_a_foreign_ledger(root, dpsd):
    folder = dataset_folder(root / "teachers", "digits")
    code, text = dpsd("verify", root / "run" / "release", "--ledger", folder)
    assert code == 2 and "ledger.owner says" in text
    assert "accepted: the teacher's ledger, which `dpsd ledger RUN`" in text


def test_a_release_of_an_older_version_is_refused(root, dpsd, tmp_path):
    shutil.copytree(root / "run" / "release", tmp_path / "release")
    path = tmp_path / "release" / "statement.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"schema_version": 1}))
    code, text = dpsd("verify", tmp_path / "release")
    assert code == 2 and "schema_version 1; accepted by this version of dpsd: 2" in text


def votes(run, sigma):
    return RunRecord(run, VotesRelease(sigma), 100, unit="record", route="ensemble")


def test_budgets(dpsd, tmp_path, monkeypatch):
    monkeypatch.setenv("DPSD_HOME", str(tmp_path))
    code, text = dpsd("budget", "clinic", "--unit", "record", "--epsilon", "3", "--delta", "1e-6")
    assert code == 0 and "epsilon 3 for one record at delta 1e-06" in text
    assert "spent: epsilon 0 for one record" in text and "left: one more run" in text
    folder = dataset_folder(tmp_path, "clinic")
    ledger = Ledger(folder, read_dataset(folder)["uuid"])
    ledger.open_run(votes("first", 60.0))
    code, text = dpsd("budget", "clinic", "--json")
    (found,) = json.loads(text)["budgets"]
    assert 0.9 < found["spent"] < 1.1 and 2 < found["left"] < 3
    assert [r["run"] for r in found["runs"]] == ["first"]
    code, text = dpsd("budget", "clinic", "--unit", "record", "--epsilon", "0.5", "--delta", "1e-6")
    assert code == 2 and "is below what is spent" in text and "accepted: from" in text
    assert len(ledger.allowances()) == 1
    dpsd("budget", "clinic", "--unit", "record", "--epsilon", "4", "--delta", "1e-6")
    assert [a.epsilon for a in ledger.allowances()] == [3.0, 4.0]
    code, text = dpsd("ledger", "clinic")
    assert code == 0 and "votes sigma 60 cells 2" in text
    code, text = dpsd("ledger", "clinic", "--rows", "500")
    assert code == 0 and open_ledger(folder).rows() == 500


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["budget", "nobody"], "no ledger of this name"),
        (["ledger", "nobody"], "no ledger of this name"),
        (["key", "nobody"], "no ledger of this name"),
        (["budget", "a/b", "--unit", "record", "--epsilon", "1", "--delta", "1e-6"], "letters"),
        (["budget", "../x", "--unit", "record", "--epsilon", "1", "--delta", "1e-6"], "letters"),
        (["budget", "x", "--unit", "record", "--epsilon", "1"], "a budget needs all three"),
        (["budget", "x", "--unit", "record", "--epsilon", "1", "--delta", "1"], "below 0.001"),
        (["evaluate", "run", "--release-accuracy"], "needs --epsilon X"),
        (["evaluate", "run", "--epsilon", "1"], "--epsilon needs it"),
        (["ledger", "teachers/none", "--rows", "5"], "no ledger of this name"),
    ],
)
def test_bad_input(root, dpsd, words, message):
    before = contents(root)
    code, text = dpsd(*words)
    assert code == 2 and message in text
    assert contents(root) == before


@pytest.mark.parametrize("bad", [["--epsilon", "0"], ["--epsilon", "nan"], ["--unit", "answer"]])
def test_numbers_and_units_that_no_budget_has(dpsd, bad, capsys):
    with pytest.raises(SystemExit) as e:
        dpsd("budget", "x", *bad)
    assert e.value.code == 2
    assert "is not accepted" in (err := capsys.readouterr().err) or "invalid choice" in err


def test_accuracy_is_paid_for(root, dpsd, tmp_path):
    shutil.copytree(root, tmp_path / "root")
    for path in (tmp_path / "root").glob("*/private/run.json"):
        path.write_text(path.read_text().replace(str(root), str(tmp_path / "root")))
    run, folder = tmp_path / "root" / "run", dataset_folder(tmp_path / "root/teachers", "digits")
    for n, (epsilon, total) in enumerate(((0.5, 0.5), (1.0, 1.5)), 1):
        code, text = dpsd("evaluate", run, "--release-accuracy", "--epsilon", epsilon)
        assert code == 0 and f"charged: epsilon {epsilon:g} for one test record, {total:g}" in text
        facts = json.loads((run / "release" / "statement.json").read_text())
        assert len(facts["accuracy"]) == n
    found = facts["accuracy"][0]
    assert 0 <= found["low"] < found["high"] <= 1 and found["rows"] == 359
    card = (run / "release" / "README.md").read_text()
    assert f"{100 * found['low']:.2f} to {100 * found['high']:.2f} % (95 % interval, noise" in card
    teacher = next((tmp_path / "root/teachers").glob("*/ledger.key")).parent
    for ledger in ([], ["--ledger", teacher]):
        assert dpsd("verify", run / "release", *ledger)[0] == 0
    lines = [r for r in open_ledger(folder).runs() if r.unit == "test record"]
    assert [(r.event.epsilon, r.answers) for r in lines] == [(0.5, 1), (1.0, 1)]
    # It is about test rows: no claim for records of the training counts it.
    dpsd("budget", "digits", "--root", tmp_path / "root/teachers", "--unit", "test record",
         "--epsilon", "2", "--delta", "1e-6")  # fmt: skip
    code, text = dpsd("evaluate", run, "--release-accuracy", "--epsilon", "1")
    assert code == 2 and "epsilon 2 for one test record" in text and "1.5 is spent" in text
    facts["accuracy"][0]["low"] = 0.99  # no interval that follows from the noisy count
    from statements import forge

    config = yaml.safe_load((run / "release" / "config.yaml").read_text())
    assert "accuracy" not in config
    forge(run / "release", lambda f, t: f["accuracy"][0].update(low=0.99, high=1.0))
    assert dpsd("verify", run / "release")[0] == 2
