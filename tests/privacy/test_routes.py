"""Whole runs by the loop for records and users, without a real ensemble or DP-SGD training."""

import json

import pytest
from ensembles import Ensemble

from dpsd.config import parse_config
from dpsd.errors import UserError
from dpsd.privacy.inherited import DpTraining, write_dp_ledger
from dpsd.privacy.ledger import Ledger
from dpsd.privacy.oracle import Oracle
from dpsd.privacy.verify import verify_release
from dpsd.teachers.folder import TeacherFolder
from dpsd.transcription.transcribe import transcribe

DATASET = {"folder": "data", "uuid": "d"}
ROUTES = {
    "ensemble": {"unit": "record", "mechanism": "noisy_votes", "epsilon": 2.0},
    "inherited": {"unit": "record", "mechanism": "none", "epsilon": None},
}


def config(route):
    return parse_config(
        {
            "device": "cpu",
            "precision": "float32",
            "data": {"name": "none", "shape": [1, 12, 12], "classes": 4},
            "teacher": {"shards": 20},
            "student": {"model": "cnn-small", "batch_size": 32},
            "loop": {"rounds": 2},
            "privacy": {"route": route, "answers": 64} | ROUTES[route],
        }
    )


def teacher(route):
    return Ensemble() if route == "ensemble" else lambda x: Ensemble()(x).float()


@pytest.fixture
def home(tmp_path):
    (tmp_path / "home").mkdir()
    (tmp_path / "home/weights.safetensors").write_bytes(b"weights")
    (tmp_path / "data").mkdir()
    (tmp_path / "data/dataset.json").write_text(json.dumps({"uuid": "d", "name": "digits"}))
    return TeacherFolder(
        tmp_path / "home", "t", "ensemble", {"recipe": {"shards": 20}, "dataset": DATASET}
    )


def finished(route, home, out):
    def door(plan, run, _):
        ledger = Ledger(run.ledger_folder, run.ledger)
        return Oracle(teacher(route), plan, ledger, run.id, run.started, run.bank)

    if route == "inherited":
        home = TeacherFolder(home.path, "t", "dp_sgd", {"recipe": {}, "dataset": DATASET})
    lines = []
    run = transcribe(
        config(route), out=out, home=home, open_oracle=door, progress=lines.append,
    )  # fmt: skip
    return run, lines


@pytest.mark.parametrize("route", ROUTES)
def test_a_run_states_its_guarantee_for_records(route, home, tmp_path):
    write_dp_ledger(home.path, DpTraining("t", 1.3, 512 / 60_000, 1758, 1.0, 60_000, 1e-5))
    run, lines = finished(route, home, tmp_path / "run")
    facts = verify_release(run.release)
    assert (facts["route"], facts["unit"], facts["private"]) == (route, "record", True)
    expected = {"ensemble": 2.0, "inherited": 2.286}[route]
    assert facts["guarantee"]["epsilon"] == pytest.approx(expected, rel=1e-3)
    privacy = run.report()["privacy"]
    assert (privacy["scope"], privacy["unit"]) == ("total", "record")
    assert privacy["epsilon"] == privacy["worst_case_epsilon"] == facts["guarantee"]["epsilon"]
    assert lines[-1]["epsilon_per_record"] == pytest.approx(expected, rel=1e-3)
    card = (run.release / "README.md").read_text()
    assert "for one record" in card and "NOT PRIVATE" not in card
    ledger = tmp_path / "data/ledger.jsonl"
    assert (run.private / "ledger.jsonl").read_text() == ledger.read_text()
    assert not (home.path / "ledger.jsonl").exists()


def test_votes_of_another_number_of_teachers_are_refused(home, tmp_path):
    for kind, recipe in (("ensemble", {"shards": 19}), ("own", None)):
        other = TeacherFolder(home.path, "t", kind, {"recipe": recipe})
        with pytest.raises(UserError, match=r"teacher\.shards: 20 by the plan"):
            transcribe(config("ensemble"), out=tmp_path / "run", home=other)
    with pytest.raises(UserError, match=r"teacher\.shards: None by the plan .*holds 20 shards"):
        transcribe(config("inherited"), out=tmp_path / "run", home=home)
    assert not (tmp_path / "run").exists()


def test_an_ensemble_sharded_by_record_makes_no_claim_for_users(home, tmp_path):
    tree = config("ensemble").model_dump(mode="json")
    tree["privacy"]["unit"], tree["data"]["user_ids"] = "user", "ids.npz"
    with pytest.raises(UserError, match=r"privacy\.unit: user, but .* was sharded by record"):
        transcribe(parse_config(tree), out=tmp_path / "run", home=home)
    assert not (tmp_path / "run").exists()


def test_a_second_run_on_the_same_data_composes(home, tmp_path):
    finished("ensemble", home, tmp_path / "a")
    run, _ = finished("ensemble", home, tmp_path / "b")
    g = json.loads((run.release / "statement.json").read_text())["guarantee"]
    assert g["composed_epsilon"] == pytest.approx(2.965, abs=0.03)  # mu 0.5016 * sqrt(2)


def test_a_dp_trained_teacher_and_an_ensemble_of_the_same_data_compose(home, tmp_path):
    """Also through the run folders, and recomputed by who has the release alone."""
    write_dp_ledger(home.path, DpTraining("t", 1.3, 512 / 60_000, 1758, 1.0, 60_000, 1e-5))
    first, _ = finished("ensemble", home, tmp_path / "votes")
    second, _ = finished("inherited", home, tmp_path / "inherited")
    assert (first.ledger_folder, first.ledger) == (second.ledger_folder, second.ledger)
    g = verify_release(second.release)["guarantee"]
    assert g["epsilon"] == pytest.approx(2.286, rel=1e-3)
    assert 2.9 < g["composed_epsilon"] < 2.0 + 2.286
    assert g["composed_worst_case_epsilon"] == g["composed_epsilon"]
    path = second.release / "statement.json"
    facts = json.loads(path.read_text())
    facts["earlier_runs"] = []
    path.write_text(json.dumps(facts))
    with pytest.raises(UserError, match="it was changed since"):
        verify_release(second.release)


def test_a_dp_trained_teacher_of_no_known_data_set_gives_nothing(home, tmp_path):
    write_dp_ledger(home.path, DpTraining("t", 1.3, 0.01, 1758, 1.0, 60_000, 1e-5))
    bare = TeacherFolder(home.path, "t", "dp_sgd", {"recipe": {}})
    with pytest.raises(UserError, match=r"names no data set .* no guarantee is inherited"):
        transcribe(config("inherited"), out=tmp_path / "run", home=bare)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("damage", ["missing", "changed", "another"])
def test_nothing_is_written_where_no_guarantee_can_be_inherited(damage, home, tmp_path):
    if damage != "missing":
        uuid = "u" if damage == "another" else "t"
        write_dp_ledger(home.path, DpTraining(uuid, 1.3, 0.01, 1758, 1.0, 60_000, 1e-5))
    if damage == "changed":
        path = home.path / "dp.json"
        path.write_text(path.read_text().replace("1.3", "13"))
    says = {"missing": "missing", "changed": "checksum", "another": "belongs to teacher u"}
    with pytest.raises(UserError, match=f"{says[damage]}.*no guarantee is inherited"):
        finished("inherited", home, tmp_path / "run")
    assert not (tmp_path / "run").exists()
