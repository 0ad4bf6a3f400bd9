"""A federated run under attack: its student is at hand, its teachers are the clients'."""

import pytest

from dpsd.attacks.audit import attack as audit_run
from dpsd.attacks.audit.attack import AuditBudget, audit
from dpsd.attacks.context import Attack
from dpsd.attacks.inversion import attack as inversion
from dpsd.attacks.inversion.search import BUDGETS, Budget
from dpsd.attacks.membership import attack as membership
from dpsd.attacks.membership.attack import MembershipBudget
from dpsd.config import parse_config
from dpsd.federated.federate import federate

INVERSION = Budget(
    ("released",), seeds=2, images=10, draws=2, steps=2, gan_steps=2, pool=50,
    noise_free_answers=200, judge_steps=60, knowledge_steps=2,
)  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    root = tmp_path_factory.mktemp("clients")
    config = {
        "device": "cpu", "precision": "float32", "data": {"split": "digits"},
        "teacher": {"model": "cnn-tiny", "epochs": 2, "batch_size": 32, "root": str(root)},
        "student": {"model": "cnn-tiny", "refit_epochs": 1}, "loop": {"rounds": 2},
        "privacy": {"route": "federated", "epsilon": 8.0, "answers": 200,
                    "insecure_seeded_noise": True},
        "federated": {"clients": 2, "partition": "iid"},
    }  # fmt: skip
    return federate(parse_config(config), out=root / "run")


def test_the_mechanism_of_a_federated_run_is_audited(run, monkeypatch):
    tiny = AuditBudget(draws=2000, pairs=1, questions=50, trials=100, slots=20, answers=None)
    monkeypatch.setitem(audit_run.BUDGETS, "fast", tiny)
    report = audit(Attack(run, budget="fast"))
    assert set(report["levels"]) == {"mechanism"} and report["verdict"] in (
        "consistent",
        "no power",
    )
    for level in ("transcript", "one_run"):
        assert "clients' teachers" in report["skipped"][level]


def test_membership_asks_the_student_alone(run, monkeypatch):
    tiny = MembershipBudget("cnn-tiny", 150, 4, 2, 1, 200)
    monkeypatch.setitem(membership.BUDGETS, "fast", tiny)
    report = membership.attack(Attack(run, budget="fast"))
    assert set(report["targets"]) == {"profile teacher", "run student"}
    assert set(report["skipped"]) == {"profile student", "run teacher"}


def test_inversion_compares_the_student_with_an_undefended_model(run, monkeypatch):
    monkeypatch.setitem(BUDGETS, "fast", INVERSION)
    report = inversion.attack(Attack(run, budget="fast"))
    assert "undefended" in report["targets"]["teacher"]["what"]
    assert report["attacks"]["released"]["targets"]["student"]["verdict"]
