"""The audit of routes that claim something for a record: votes, and DP-SGD inherited."""

import pytest

from dpsd.attacks.audit import attack as audit_run
from dpsd.attacks.audit.attack import AuditBudget, audit
from dpsd.attacks.audit.pairs import retrainable, teacher_pairs
from dpsd.attacks.audit.report import audit_report
from dpsd.attacks.audit.text import audit_text
from dpsd.attacks.context import Attack
from dpsd.attacks.store import load_scores
from dpsd.config import parse_config
from dpsd.data.load import load_data
from dpsd.teachers.folder import TeacherFolder, read_folder
from dpsd.teachers.teacher import ensure_teacher
from dpsd.transcription.transcribe import transcribe

TINY = AuditBudget(draws=1500, pairs=2, questions=100, trials=400, slots=20, answers=None)


@pytest.fixture(scope="module")
def votes(tmp_path_factory):
    root = tmp_path_factory.mktemp("votes")
    config = parse_config(
        {
            "device": "cpu",
            "precision": "float32",
            "teacher": {"model": "cnn-tiny", "shards": 6, "shard_steps": 10, "root": str(root)},
            "student": {"refit_epochs": 1},
            "loop": {"rounds": 2},
            "privacy": {"route": "ensemble", "unit": "record", "mechanism": "noisy_votes",
                        "epsilon": 3.0, "answers": 20, "insecure_seeded_noise": True},
        }
    )  # fmt: skip
    return transcribe(config, out=root / "run")


def test_votes_are_audited_for_a_record(votes, monkeypatch):
    monkeypatch.setitem(audit_run.BUDGETS, "fast", TINY)
    dataset = votes.ledger_folder / "ledger.jsonl"
    before = dataset.read_bytes()
    report = audit(Attack(votes, budget="fast"))
    assert dataset.read_bytes() == before  # canary runs are charged elsewhere
    claim, levels = report["claim"], report["levels"]
    assert claim["record_claimed"] and claim["record_epsilon"] == pytest.approx(3.0)
    assert claim["mechanism_epsilon"] < 3.0
    assert levels["mechanism"][0]["unit"] == "record, one histogram"
    for pair in levels["transcript"]["pairs"]:
        assert pair["exact_epsilon"] <= 3.0 + 1e-6  # one vote in each of the answers at most
        assert pair["bound"]["claimed"] == pytest.approx(3.0)
        assert pair["bound"]["verdict"] == "consistent"
        assert pair["bound"]["confidence"] == pytest.approx(1 - 0.05 / 3 / 2)
    # Three claims are tested, so each has a third of the 5 %; the teacher has none.
    assert levels["mechanism"][0]["confidence"] == pytest.approx(1 - 0.05 / 3)
    teacher, student = levels["one_run"]["bounds"]
    assert student["confidence"] == pytest.approx(1 - 0.05 / 3)
    assert teacher["confidence"] == pytest.approx(0.95)
    assert teacher["claimed"] is None and student["claimed"] == pytest.approx(3.0)
    assert report["verdict"] == "consistent" and "record" in audit_text(report)


def test_a_broken_count_of_votes_is_violated(votes, monkeypatch):
    """The same scores under a tenth of the claim, as if the budget were counted for two answers."""
    monkeypatch.setitem(audit_run.BUDGETS, "fast", TINY)
    audit(Attack(votes, budget="fast"))
    arrays, facts = load_scores(votes.private / "attacks" / "audit")
    shift = 3.0
    arrays["pair0_1"] = arrays["pair0_1"] + shift
    facts["claim"]["record_epsilon"] = 0.3
    assert audit_report(arrays, facts)["levels"]["transcript"]["verdict"] == "violated"


def test_the_verdict_is_consistent_only_where_each_claim_could_be_refuted(votes, monkeypatch):
    """A claim on records beyond all ceilings, beside a histogram whose own claim is tested."""
    monkeypatch.setitem(audit_run.BUDGETS, "fast", TINY)
    audit(Attack(votes, budget="fast"))
    arrays, facts = load_scores(votes.private / "attacks" / "audit")
    facts["claim"]["record_epsilon"] = 50.0
    report = audit_report(arrays, facts)
    assert report["verdicts"] == {"mechanism": "consistent", "record": "no power"}
    assert report["verdict"] == "no power"
    assert "no power (mechanism consistent, record no power)" in audit_text(report)


def test_only_the_shard_of_the_record_is_trained_again(votes, tmp_path):
    config, home = votes.config, read_folder(votes.teacher_folder)
    data = load_data(config.data)
    images = data.holdout.images[:50]
    context = Attack(votes, seed=1)
    for pair in teacher_pairs(context, home, data, pairs=2, folder=tmp_path):
        for world in (pair.world0, pair.world1):
            assert world(images).sum(1).tolist() == [1] * 50  # one vote
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("kind", "reason"),
    [("own", "no recipe"), ("dp_sgd", "itself random"), ("plain", None), ("ensemble", None)],
)
def test_teachers_that_cannot_be_paired(tmp_path, kind, reason):
    found = retrainable(TeacherFolder(tmp_path, "x", kind, {}))
    assert (found is None) if reason is None else (reason in found)


@pytest.fixture(scope="module")
def private_teacher(tmp_path_factory):
    """The configuration of a teacher trained by DP-SGD, and the teacher."""
    root = tmp_path_factory.mktemp("dp")
    dp = {"epsilon": 3.0, "epochs": 2, "batch_size": 200}
    teacher = {"model": "cnn-tanh", "dp": dp, "root": str(root)}
    trained = parse_config(
        {"device": "cpu", "precision": "float32", "teacher": teacher,
         "privacy": {"route": "inherited", "unit": "record", "mechanism": "none"}}
    )  # fmt: skip
    return teacher, ensure_teacher(trained, lambda text: None)


@pytest.mark.parametrize("by_path", [False, True])
def test_an_inherited_guarantee_is_audited_by_canaries_alone(
    private_teacher, tmp_path, monkeypatch, by_path
):
    monkeypatch.setitem(audit_run.BUDGETS, "fast", TINY)
    teacher, home = private_teacher
    if by_path:  # then the configuration does not say how it was trained
        teacher = {"path": str(home.path), "root": teacher["root"]}
    config = parse_config(
        {
            "device": "cpu",
            "precision": "float32",
            "teacher": teacher,
            "student": {"refit_epochs": 1},
            "loop": {"rounds": 2},
            "privacy": {"route": "inherited", "unit": "record", "mechanism": "none",
                        "answers": 200},
        }
    )  # fmt: skip
    run = transcribe(config, out=tmp_path / "run")
    report = audit(Attack(run, budget="fast"))
    assert set(report["levels"]) == {"one_run"}
    assert "itself random" in report["skipped"]["transcript"]
    assert "teacher's training" in report["skipped"]["mechanism"]
    for bound in report["levels"]["one_run"]["bounds"]:
        assert bound["unit"] == "record" and bound["claimed"] == pytest.approx(3.0, abs=0.01)
        assert bound["verdict"] in ("consistent", "no power")
