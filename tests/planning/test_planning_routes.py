import json
import subprocess
import sys

import numpy as np
import pytest

import dpsd
from dpsd.cli import main
from dpsd.config import parse_config
from dpsd.data.load import load_data
from dpsd.planning.routes import plan_routes, planning_config
from dpsd.planning.routes_text import planner_text
from dpsd.privacy.accounting import compose_epsilon
from dpsd.privacy.inherited import DpTraining, write_dp_ledger
from dpsd.privacy.plan import make_plan

TREE = {
    "device": "cpu",
    "data": {"name": "mnist"},
    "teacher": {"dp": {"epochs": 2, "batch_size": 2000}},
    "student": {"model": "cnn-small"},
    "privacy": {"epsilon": 1.0},
}
NOTHING = {"name": "none", "shape": [1, 28, 28], "classes": 10}


@pytest.fixture(scope="module")
def found():
    return plan_routes(planning_config(TREE), "auto", "record")


def routes_of(facts):
    return {r["route"]: r for r in facts["routes"]}


def test_all_routes_with_data(found):
    routes = routes_of(found)
    assert [r for r in routes if routes[r]["open"]] == ["single", "ensemble", "inherited"]
    assert routes["single"]["why"].startswith("answers only")
    assert "estimate" not in routes["single"]
    assert "`dpsd federate`" in routes["federated"]["why"]
    assert found["chosen"] == "inherited"
    assert not found["checkpoint_only"]


def test_the_ensemble_keeps_to_epsilon(found):
    """The settings that it proposes are a configuration whose plan has the guarantee stated."""
    ensemble = routes_of(found)["ensemble"]
    assert ensemble["epsilon"] == {"per_record": 1.0}
    chosen = ensemble["chosen"]
    assert 2000 <= chosen["shards"] <= 4000
    assert 0.4 < chosen["correct"] < 0.95 < chosen["right"] < 1
    tree = TREE | {"privacy": {"epsilon": 5.0}}
    plan = make_plan(set_all(tree, ensemble["set"]))
    assert (plan.unit, plan.scope, plan.answers) == ("record", "total", chosen["answers"])
    assert plan.mechanism.voters == chosen["shards"]
    assert plan.mechanism.sigma == chosen["sigma"]
    assert 0.99 < plan.unit_epsilon(1e-5) <= 1.0


def test_dp_sgd_keeps_to_epsilon(found):
    inherited = routes_of(found)["inherited"]
    t = inherited["training"]
    training = DpTraining("x", t["noise_multiplier"], t["sample_rate"], t["steps"], 1, 54_000, 1e-5)
    assert 0.98 < compose_epsilon([(training.event, 1)], 1e-5) <= 1.001
    assert inherited["epsilon"]["per_record"] == 1.0
    assert 0.4 < inherited["epsilon"]["per_record_add_or_remove_one"] < 0.6
    config = set_all(TREE, inherited["set"])
    assert config.privacy.route == "inherited" and config.teacher.dp.epsilon == 1.0


def test_costs_are_timed(found):
    for name in ("ensemble", "inherited"):
        cost = routes_of(found)[name]["estimate"]
        assert {"teachers", "teacher", "student", "images"} <= set(cost["seconds_by_part"])
        assert cost["seconds"] == pytest.approx(sum(cost["seconds_by_part"].values()))
        assert cost["seconds_by_part"]["teachers"] > 0 and cost["bytes"] > 2**20


def test_text_names_the_unit_of_every_epsilon(found):
    text = planner_text(found)
    for line in text.splitlines():
        if "psilon" in line and "--set" not in line:
            assert any(f"{word} {unit}" in line for word in ("per", "one")
                       for unit in ("answer", "record", "user")), line  # fmt: skip
    assert "Epsilon 1 for one record at delta 1e-05, all" in text
    assert "Assumed, never measured on your data" in text
    for share in ("0.40", "0.95"):
        assert f"   {share}  " in text
    json.dumps(found, allow_nan=False)


def test_a_checkpoint_alone():
    tree = TREE | {"data": NOTHING, "teacher": {"weights": "mine.pt"},
                   "privacy": {"epsilon": 1.0, "answers": 40_000}}  # fmt: skip
    facts = plan_routes(planning_config(tree), "auto", "record")
    assert facts["chosen"] is None and facts["checkpoint_only"]
    assert [r["route"] for r in facts["routes"] if r["open"]] == ["single"]
    plan = dpsd.plan(tree)
    worst = plan.worst_case_epsilon(1e-5)
    text = planner_text(facts)
    assert "You have: a checkpoint only." in text
    assert (
        "No record-level claim is possible: without the training data, and without a DP ledger of "
        "the teacher's own training, nothing bounds how much one record changed this teacher.\n"
        "What could be said instead (--unit answer): each answer is private, epsilon 1 per answer "
        "at delta 1e-05; and beside it the worst case, in which one record changes all 40,000 "
        f"answers: epsilon {worst:,.6g} for one record, user or client at delta 1e-05." in text
    )
    assert text.endswith("Choice: none; no open route protects one record.\n")


def test_a_checkpoint_and_the_unit_answer():
    tree = TREE | {"data": NOTHING, "teacher": {"weights": "mine.pt"}}
    facts = plan_routes(planning_config(tree), "auto", "answer")
    assert facts["chosen"] == "single"
    assert "Epsilon 1 per answer at delta 1e-05" in planner_text(facts)


@pytest.fixture
def dp_teacher(tmp_path):
    def dp_teacher(**changes):
        (tmp_path / "teacher.json").write_text(json.dumps({"uuid": "u"}))
        facts = {"noise_multiplier": 10.0, "sample_rate": 0.05, "steps": 100, "max_grad_norm": 1.0}
        (tmp_path / "weights.safetensors").write_bytes(b"weights")
        training = DpTraining("u", **(facts | changes), rows=54_000, delta=1e-5)
        write_dp_ledger(tmp_path, training)
        return TREE | {"data": NOTHING, "teacher": {"path": str(tmp_path)}}, training

    return dp_teacher


def test_a_checkpoint_with_a_dp_ledger(dp_teacher):
    tree, training = dp_teacher()
    facts = plan_routes(planning_config(tree), "auto", "record")
    inherited = routes_of(facts)["inherited"]
    assert facts["chosen"] == "inherited" and inherited["open"]
    assert inherited["epsilon"]["per_record"] == compose_epsilon([(training.event, 1)], 1e-5)
    assert "No record-level claim" not in planner_text(facts)
    assert set_all(tree, inherited["set"]).privacy.route == "inherited"


@pytest.mark.parametrize(
    "changes, says",
    [({"noise_multiplier": 1.0}, "above the 1 asked"), ({"seeded_noise": True}, "seeded")],
)
def test_a_dp_ledger_that_does_not_reach(dp_teacher, changes, says):
    tree, _ = dp_teacher(**changes)
    facts = plan_routes(planning_config(tree), "auto", "record")
    assert facts["chosen"] is None and says in routes_of(facts)["inherited"]["why"]


def test_digits_without_a_count():
    tree = TREE | {"data": {"name": "digits"}}
    facts = plan_routes(planning_config(tree), "ensemble", "record")
    assert facts["has"]["rows"] == len(load_data(planning_config(tree).data).train)
    assert facts["chosen"] == "ensemble"
    assert routes_of(facts)["inherited"]["why"].startswith("teacher.dp.batch_size: 2000")


def test_users(tmp_path):
    path = tmp_path / "users.npz"
    np.savez(path, user_ids=np.arange(60_000) // 10, roster=np.arange(600))
    tree = TREE | {"data": {"name": "mnist", "user_ids": str(path)}}
    facts = plan_routes(planning_config(tree), "auto", "user")
    ensemble = routes_of(facts)["ensemble"]
    assert facts["chosen"] == "ensemble" and facts["has"]["users"] == 540
    assert ensemble["epsilon"] == {"per_user": 1.0}
    assert max(row["shards"] for row in ensemble["shards"]) == 500
    assert set_all(tree, ensemble["set"]).privacy.unit == "user"
    assert "Epsilon 1 for one user at delta" in planner_text(facts)


def test_image_folder_needs_a_manifest(tmp_path):
    data = {"name": "image_folder", "shape": [3, 32, 32], "classes": 10}
    tree = TREE | {"data": data, "teacher": {"weights": "mine.pt"}}
    facts = plan_routes(planning_config(tree), "auto", "record", rows=20_000)
    assert facts["chosen"] is None
    for name in ("ensemble", "inherited"):
        assert "`dpsd manifest`" in routes_of(facts)[name]["why"]


def test_a_claim_for_answers_needs_no_number_of_records():
    data = {"name": "image_folder", "shape": [3, 32, 32], "classes": 10}
    tree = TREE | {"data": data, "teacher": {"weights": "mine.pt"}}
    facts = plan_routes(planning_config(tree), "auto", "answer")
    assert facts["chosen"] == "single" and facts["has"]["rows"] is None
    assert "data (image_folder), a teacher of your own" in planner_text(facts)


@pytest.mark.parametrize(
    "args, says",
    [
        ("--epsilon 0 --unit record", "privacy.epsilon: 0 is not accepted"),
        ("--epsilon -2 --route auto", "privacy.epsilon: -2 is not accepted"),
        ("--route auto", "privacy.epsilon: null"),
        ("--epsilon 1 --unit user", "data.user_ids: null; unit user needs a file of user ids"),
        ("--epsilon 1 --unit user --set data.user_ids=no.npz", "data.user_ids: no.npz cannot"),
        ("--epsilon 1 --route single", "--route single --unit record: answers only"),
        ("--epsilon 1 --route ensemble --set data.name=none", "data.shape: missing"),
        ("--epsilon 1 --route auto --set data.name=npz data.shape=[1,8,8] data.classes=3",
         "--rows: missing; with data.name npz"),
        ("--epsilon 1 --route ensemble --rows 20", "too few for 10 shards"),
        ("--epsilon 1 --rows 20", "--rows and --assume: accepted together with"),
        ("--epsilon 1 --route auto --set data.rows=none.txt data.name=npz "
         "data.shape=[1,8,8] data.classes=3", "data.rows: none.txt cannot be read"),
    ],
)  # fmt: skip
def test_bad_input_is_one_line(args, says, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "c.yaml").write_text("data: {name: mnist}\n")
    assert main(["plan", "c.yaml", *args.split()]) == 2
    out, err = capsys.readouterr()
    assert not out and err.startswith("dpsd: error: ") and err.count("\n") == 1 and says in err


def test_help_imports_no_torch():
    code = (
        "import sys\nfrom dpsd.cli import main\ntry:\n    main(['plan', '--help'])\n"
        "except SystemExit:\n    pass\nassert 'torch' not in sys.modules"
    )
    out = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert "--route" in out.stdout and "--unit" in out.stdout


def set_all(tree, settings):
    """The configuration after `--set`, as the command line would read it."""
    from dpsd.config.reading import _override

    copy = json.loads(json.dumps(tree))
    for item in settings:
        _override(copy, item)
    return parse_config(copy)
