"""`dpsd audit RUN` from end to end on a tiny run."""

import functools
import json
import stat
import sys

import numpy as np
import pytest
from products import contents, copy_of, tiny_run

from dpsd.attacks.audit import attack as audit_run
from dpsd.attacks.audit import pairs as audit_pairs
from dpsd.attacks.audit.attack import AuditBudget, audit, farthest_worlds, mechanism_scores
from dpsd.attacks.audit.report import audit_report
from dpsd.attacks.audit.text import audit_card, audit_text
from dpsd.attacks.context import Attack
from dpsd.attacks.store import load_scores, save_scores
from dpsd.cli import main
from dpsd.config import parse_config
from dpsd.data.load import load_data
from dpsd.privacy.noise import NoiseSource
from dpsd.privacy.plan import make_plan
from dpsd.runs.folder import Run
from dpsd.teachers.folder import read_folder

TINY = AuditBudget(draws=4000, pairs=2, questions=1500, trials=1000, slots=40, answers=400)


@pytest.fixture(scope="module")
def audited(tmp_path_factory):
    run = copy_of(tiny_run(tmp_path_factory), tmp_path_factory.mktemp("audit") / "run")
    before = contents(run.release), contents(run.teacher_folder)
    patch = pytest.MonkeyPatch()
    patch.setitem(audit_run.BUDGETS, "fast", TINY)
    report = audit(Attack(run, budget="fast", seed=1))
    patch.undo()
    return run, report, before


def test_three_levels_each_with_unit_claim_and_ceiling(audited):
    _, report, _ = audited
    levels = report["levels"]
    assert set(levels) == {"mechanism", "transcript", "one_run"} and not report["skipped"]
    bounds = [
        *levels["mechanism"],
        *(p["bound"] for p in levels["transcript"]["pairs"]),
        *levels["one_run"]["bounds"],
    ]
    for bound in bounds:
        assert bound["unit"] and bound["verdict"] and bound["value"] <= bound["ceiling"] + 1e-9
        assert bound["confidence"] >= 0.95
    assert levels["mechanism"][0]["unit"] == "answer"
    assert levels["mechanism"][0]["claimed"] == pytest.approx(8.0)
    assert all(b["unit"] == "record" and b["claimed"] is None for b in bounds[1:])


def test_a_single_teacher_claims_nothing_for_a_record(audited):
    _, report, _ = audited
    found = report["levels"]["transcript"]
    assert found["verdict"] == "not claimed" and "not claimed, at least" in found["text"]
    values = [p["bound"]["value"] for p in found["pairs"]]
    assert found["at_least"] == max(values)
    for pair in found["pairs"]:
        assert pair["answers"] >= 1500 and pair["bound"]["confidence"] == pytest.approx(0.975)
        if pair["differing"]:
            assert pair["bound"]["value"] <= pair["exact_epsilon"]
    kinds = [p["kind"] for p in found["pairs"]]
    assert kinds == ["the same image with a wrong label", "another ordinary record"]
    assert "not claimed" in audit_text(report) and "NOT PRIVATE" in audit_text(report)
    card = audit_card(report)
    assert card.count("| epsilon per record |") == 4 and "| not claimed |" in card


def test_an_audit_that_was_stopped_in_its_student_goes_on_from_another_place(
    audited, tmp_path, monkeypatch
):
    run, report, _ = audited
    moved = copy_of(run, tmp_path / "moved")
    made = next((moved.private / "attacks" / "audit").glob("one-run-*")) / "run-1"
    (made / "private" / "report.json").unlink()
    monkeypatch.setitem(audit_run.BUDGETS, "fast", TINY)
    again = audit(Attack(moved, budget="fast", seed=1))
    assert again["levels"]["one_run"] == report["levels"]["one_run"]
    (moved.private / "attacks" / "audit" / "scores.npz").write_bytes(b"")
    assert main(["audit", str(moved.path), "--analyse-only"]) == 2


def test_it_writes_under_private_alone(audited):
    run, _, before = audited
    assert (contents(run.release), contents(run.teacher_folder)) == before
    folder = run.private / "attacks" / "audit"
    for path in (folder, folder.parent):
        assert stat.S_IMODE(path.stat().st_mode) == 0o700
    assert {"scores.npz", "report.json"} <= {p.name for p in folder.iterdir()}


def test_analysis_runs_alone_on_saved_scores(audited, capsys):
    run, report, _ = audited
    path = run.private / "attacks" / "audit" / "report.json"
    assert json.loads(path.read_text()) == json.loads(json.dumps(report))
    path.unlink()
    assert main(["audit", str(run.path), "--analyse-only", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == json.loads(path.read_text())
    assert json.loads(path.read_text()) == json.loads(json.dumps(report))


def test_a_violated_claim_is_called_so(audited, tmp_path):
    """Scores of a mechanism whose epsilon is 8, under a claim of 1."""
    run, _, _ = audited
    arrays, facts = load_scores(run.private / "attacks" / "audit")
    facts["claim"]["mechanism_epsilon"] = 1.0
    save_scores(tmp_path, arrays, facts)
    report = audit_report(*load_scores(tmp_path))
    assert report["verdict"] == "violated"
    assert report["levels"]["mechanism"][0]["verdict"] == "violated"


def test_canaries_that_are_read_off_are_counted(audited):
    run, _, _ = audited
    arrays, facts = load_scores(run.private / "attacks" / "audit")
    coins = arrays["canary_coins"]
    arrays["canary_student"] = np.where(coins, 1.0, -1.0)
    facts["claim"] |= {"record_epsilon": 1.0, "record_claimed": True}
    bound = audit_report(arrays, facts)["levels"]["one_run"]["bounds"][1]
    assert bound["verdict"] == "violated" and bound["value"] == bound["ceiling"]
    assert len(coins) == 40 and 8 < coins.sum() < 32


def test_the_same_data_give_the_same_teacher(audited, tmp_path, monkeypatch):
    """So that what differs between the worlds comes from the one record."""
    run, _, _ = audited
    monkeypatch.setattr(audit_pairs, "_changed", lambda c, data, row, **k: (data, "itself"))
    pairs = audit_pairs.teacher_pairs(
        Attack(run), read_folder(run.teacher_folder), load_data(run.config.data), pairs=1,
        folder=tmp_path,
    )  # fmt: skip
    parts = audit_run._transcript_losses(run, make_plan(run.config).mechanism, next(pairs), TINY)
    assert sum(p.differing for p in parts) == 0 < sum(p.answers for p in parts)


@pytest.mark.parametrize(
    "privacy",
    [
        {"mechanism": "randomized_response", "epsilon": 2.0, "ask": "group"},
        {"mechanism": "randomized_response", "epsilon": 2.0, "top_k": 2},
        {"mechanism": "gaussian", "epsilon": 2.0, "vector": "gradient"},
        {"mechanism": "gaussian", "epsilon": 2.0, "vector": "probabilities", "top_k": 3},
        {"mechanism": "randomized_response", "epsilon": 2.0, "asks_per_image": 3},
    ],
)
def test_the_mechanism_of_every_plan_is_consistent_and_not_idle(privacy, monkeypatch):
    """Fresh noise would call a true claim violated in up to 5 % of the tests, as the audit says."""
    seeded = functools.partial(audit_run.audit_mechanism, noise=NoiseSource(b"every plan"))
    monkeypatch.setattr(audit_run, "audit_mechanism", seeded)
    plan = make_plan(parse_config({"privacy": privacy | {"answers": 2000}}))
    arrays = dict(zip(("mechanism0", "mechanism1"), mechanism_scores(plan, 20_000), strict=True))
    facts = {"claim": audit_run.claim(plan), "run": "", "budget": "", "spend": {}, "seed": 0,
             "skipped": {}, "seconds": {}}  # fmt: skip
    bounds = audit_report(arrays, facts)["levels"]["mechanism"]
    assert {b["verdict"] for b in bounds} == {"consistent"}
    assert bounds[-1]["value"] > 0.5 * bounds[-1]["claimed"]


def test_votes_are_audited_at_the_largest_move():
    tree = {
        "data": {"name": "mnist"},
        "teacher": {"shards": 50},
        "privacy": {"route": "ensemble", "unit": "record", "mechanism": "noisy_votes",
                    "epsilon": 8.0, "answers": 20},
        "loop": {"rounds": 2},
    }  # fmt: skip
    plan = make_plan(parse_config(tree))
    world0, world1, _ = farthest_worlds(plan.mechanism)
    assert int(world0.sum()) == int(world1.sum()) == 50
    assert int((world0 - world1).abs().sum()) == 2


def test_bad_input(audited, capsys, tmp_path):
    run, _, _ = audited
    assert main(["audit", str(tmp_path)]) == 2
    assert "no run folder" in capsys.readouterr().err
    bare = copy_of(run, tmp_path / "bare")
    (bare.private / "attacks" / "audit" / "scores.npz").unlink()
    assert main(["audit", str(bare.path), "--analyse-only"]) == 2
    assert "run the attack before its analysis" in capsys.readouterr().err
    (bare.private / "attacks" / "audit" / "scores.npz").write_bytes(b"no zip")
    assert main(["audit", str(bare.path), "--analyse-only"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    (bare.private / "report.json").unlink()
    assert main(["audit", str(bare.path)]) == 2
    other = Run(run.path)
    other.teacher = "somebody else"
    with pytest.raises(audit_run.UserError, match="is teacher"):
        audit(Attack(other, budget="fast"))
    with pytest.raises(audit_run.UserError, match="budget: 'huge'"):
        audit(Attack(run, budget="huge"))
    assert "dpsd.attacks.audit.attack" in sys.modules
