"""`dpsd attack all` and `dpsd audit` through the command line, and what the demo shows last."""

import json
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from dpsd.attacks.audit import attack as audit_run
from dpsd.attacks.audit.attack import AuditBudget
from dpsd.attacks.extraction import attack as extraction
from dpsd.attacks.extraction import copying
from dpsd.attacks.extraction.attack import ExtractionBudget
from dpsd.attacks.extraction.clone import Holdings
from dpsd.attacks.inversion.search import BUDGETS, Budget
from dpsd.attacks.membership import attack as membership
from dpsd.attacks.membership.attack import MembershipBudget
from dpsd.attacks.store import load_scores, save_scores
from dpsd.cli import main
from dpsd.config import parse_config
from dpsd.transcription.transcribe import transcribe

ROOT = Path(__file__).parents[2]
ATTACKS = ("inversion", "membership", "extraction", "audit")


@pytest.fixture(scope="module")
def attacked(tmp_path_factory):
    root = tmp_path_factory.mktemp("all")
    config = parse_config(
        {
            "device": "cpu", "precision": "float32", "data": {"split": "digits"},
            "teacher": {"model": "cnn-small", "epochs": 1, "batch_size": 32, "root": str(root)},
            "student": {"refit_epochs": 1},
            "loop": {"rounds": 2},
            "privacy": {"epsilon": 8.0, "answers": 400, "insecure_seeded_noise": True},
            "attacks": {"budget": "fast"},
        }
    )  # fmt: skip
    run = transcribe(config, out=root / "run")
    with pytest.MonkeyPatch.context() as patch:
        tiny = Budget(
            ("gmi",), seeds=1, images=5, draws=2, steps=2, gan_steps=2, pool=50,
            noise_free_answers=200, judge_steps=30, knowledge_steps=2,
        )  # fmt: skip
        patch.setitem(BUDGETS, "fast", tiny)
        tiny_game = MembershipBudget("cnn-tiny", 60, 2, 2, 2, 200)
        patch.setitem(membership.BUDGETS, "fast", tiny_game)
        patch.setitem(
            extraction.BUDGETS, "fast",
            ExtractionBudget("cnn-tiny", (20, 60), 1, 3, 60, ("basic",), ("labels",), 80),
        )  # fmt: skip
        patch.setitem(audit_run.BUDGETS, "fast", AuditBudget(2000, 1, 400, 400, 20, 200))
        patch.setattr(copying, "Holdings", partial(Holdings, least_steps=3))
        command = ["attack", "all", str(run.path), "--data-is-public", "--clones", "20"]
        assert main(command) == 0
    return run


def test_all_attacks_leave_scores_reports_and_pictures(attacked):
    folder = attacked.private / "attacks"
    for name in ATTACKS:
        assert (folder / name / "scores.npz").is_file(), name
        report = json.loads((folder / name / "report.json").read_text())
        assert report["seed"] == 0 and report.get("budget_name", report["budget"]) == "fast"
    assert (folder / "inversion/reconstructions-gmi.png").is_file()
    assert (folder / "inversion/memorisation.png").is_file()
    assert (folder / "membership/roc.png").is_file()
    assert (folder / "extraction/curves.png").is_file()


def test_copies_of_a_thief_are_attacked_too(attacked):
    """Membership and inversion name the copies, which are of other weights than their models."""
    folder = attacked.private / "attacks"
    reports = {name: json.loads((folder / name / "report.json").read_text()) for name in ATTACKS}
    inverted, inferred = reports["inversion"]["targets"], reports["membership"]["targets"]
    assert {"clone of teacher", "clone of student"} <= set(inverted)
    assert {"clone of profile teacher", "clone of run teacher", "clone of run student"} <= set(
        inferred
    )
    assert reports["membership"]["clone_questions"] == 20
    scores = load_scores(folder / "membership")[0]
    for name in ("profile teacher", "run teacher", "run student"):
        one, other = (scores[f"{n}/confidence"] for n in (name, f"clone of {name}"))
        assert one.shape == other.shape and (one != other).mean() > 0.9, name


def test_public_data_put_all_four_on_the_card(attacked, capsys):
    card = (attacked.release / "README.md").read_text()
    for title in ("## Inversion attacks", "## Membership inference", "## Extraction", "## Audit"):
        assert title in card
    assert main(["verify", str(attacked.release)]) == 0
    capsys.readouterr()


@pytest.mark.parametrize("command", [["attack", "inversion"], ["attack", "membership"], ["audit"]])
def test_an_unfinished_run_is_refused_and_left_as_it_was(attacked, tmp_path, capsys, command):
    run = tmp_path / "run"
    (run / "release").mkdir(parents=True)
    (run / "private").mkdir()
    shutil.copy(attacked.private / "run.json", run / "private")
    shutil.copy(attacked.release / "config.yaml", run / "release")
    before = sorted(run.rglob("*"))
    assert main([*command, str(run)]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert sorted(run.rglob("*")) == before


def test_one_json_of_all_and_a_violated_claim_ends_with_1(attacked, capsys):
    command = ["attack", "all", str(attacked.path), "--analyse-only", "--json"]
    assert main(command) == 0
    assert sorted(json.loads(capsys.readouterr().out)) == sorted(ATTACKS)
    folder = attacked.private / "attacks" / "audit"
    arrays, facts = load_scores(folder)
    save_scores(folder, arrays, facts | {"claim": facts["claim"] | {"mechanism_epsilon": 0.1}})
    assert main(command) == 1
    assert json.loads(capsys.readouterr().out)["audit"]["verdict"] == "violated"
    save_scores(folder, arrays, facts)


@pytest.mark.parametrize(
    ("rate", "says"),
    [
        ("0.001", "fpr: 0.001 needs 5,000 non-members, there are "),
        ("1.5", "fpr: 1.5; accepted: above 0 and below 1"),
    ],
)
@pytest.mark.parametrize("step", ["--analyse-only", "--fast"])
def test_too_few_rows_for_the_rate_is_one_line(attacked, capsys, rate, says, step):
    assert main(["attack", "membership", str(attacked.path), step, "--fpr", rate]) == 2
    error = capsys.readouterr().err
    assert says in error and error.count("\n") == 1


def test_the_table_is_for_the_rate_that_was_asked(attacked, capsys):
    command = ["attack", "membership", str(attacked.path), "--analyse-only", "--fpr", "0.05"]
    assert main(command) == 0
    assert "TPR at 5 % FPR" in capsys.readouterr().out
    report = json.loads((attacked.private / "attacks/membership/report.json").read_text())
    assert report["fpr"] == 0.05
    assert all({"0.05", "0.01", "0.001"} == set(c["tpr_at"]) for c in report["cells"])


def test_missing_packages_are_one_line():
    code = "import sys; sys.modules['scipy.stats'] = None; from dpsd.cli import main; " \
           "sys.exit(main(['audit', '--self-test']))"  # fmt: skip
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert done.stderr.startswith("dpsd: error: scipy: missing or incomplete")
