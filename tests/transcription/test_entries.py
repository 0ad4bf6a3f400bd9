"""Which ledger a run is entered in, and what honest people and budgets make of that."""

import json
import shutil

import numpy as np
import pytest
import torch
import yaml
from products import FAST_TEACHER, FEW, contents
from products import few_config as config
from safetensors.torch import load_file, save_file

from dpsd.config import parse_config
from dpsd.data.identity import dataset_folder, read_dataset
from dpsd.errors import BudgetError, UserError
from dpsd.federated.federate import federate
from dpsd.privacy.ledger import Ledger
from dpsd.privacy.verify import verify_release
from dpsd.teachers.folder import read_folder
from dpsd.teachers.teacher import ensure_teacher
from dpsd.transcription.entries import ledger_of
from dpsd.transcription.transcribe import transcribe

ENSEMBLE = {
    "privacy": {"route": "ensemble", "unit": "record", "mechanism": "noisy_votes"},
    "teacher": {"shards": 6, "shard_steps": 5},
}
INHERITED = {
    "privacy": {"route": "inherited", "unit": "record", "mechanism": "none", "epsilon": None},
    "teacher": {"model": "scatter-linear", "dp": {"epsilon": 3.0, "epochs": 1, "batch_size": 500}},
}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("entries")


def facts_of(run):
    return json.loads((run.release / "statement.json").read_text())


def data_ledger(root, name="digits"):
    folder = dataset_folder(root / "teachers", name)
    return Ledger(folder, read_dataset(folder)["uuid"])


def test_every_route_is_entered_in_the_data_sets_ledger(tmp_path):
    """Before, an ensemble's statement said "none" after three runs by other routes."""
    root = tmp_path
    single = transcribe(config(root), out=root / "single")
    transcribe(config(root, {"insecure_seeded_noise": True}), out=root / "seeded")
    open_ = {"route": "none", "unit": "none", "mechanism": "none", "epsilon": None}
    transcribe(config(root, open_), out=root / "open")
    inherited = transcribe(config(root, **INHERITED), out=root / "inherited")
    federated = {"clients": 2, "partition": "iid", "rounds": 2}
    for unit, mechanism in (("answer", "randomized_response"), ("client", "noisy_votes")):
        federate(
            config(root, {"route": "federated", "unit": unit, "mechanism": mechanism},
                   federated=federated, loop={}),
            out=root / unit,
        )  # fmt: skip
    votes = transcribe(config(root, **ENSEMBLE), out=root / "votes")
    told = [(r["route"], r["event"]["kind"], r["unit"]) for r in facts_of(votes)["earlier_runs"]]
    assert told == [
        ("single", "open", "answer"), ("single", "open", "answer"), ("none", "open", "none"),
        ("inherited", "dp_sgd", "record"), ("federated", "open", "answer"),
        ("federated", "votes", "client"),
    ]  # fmt: skip
    assert facts_of(votes)["guarantee"]["composed_epsilon"] is None
    text = (votes.release / "statement.txt").read_text()
    earlier = "Earlier runs on the same data: 6. Together with this one they have epsilon infinite"
    assert f"{earlier} for one record" in text
    assert "3. What that means: no bound: up to 100 %" in text
    assert "2. Total: epsilon infinite for one record" in text
    # What each statement claims for its own unit is unchanged.
    assert facts_of(single)["guarantee"]["epsilon"] == pytest.approx(8.0)
    assert facts_of(votes)["guarantee"]["epsilon"] == pytest.approx(8.0, rel=1e-3)
    for run in (single, inherited, votes):
        verify_release(run.release, ledger=run.ledger_folder)
    # Several runs on one DP-trained teacher stay one training.
    again = transcribe(config(root, **INHERITED), out=root / "again")
    ledger = data_ledger(root)
    assert [r.run for r in ledger.runs()][-1] == again.id


def test_a_run_that_goes_on_is_entered_once(tmp_path):
    run = transcribe(config(tmp_path), out=tmp_path / "run")
    before = data_ledger(tmp_path).path.read_bytes()
    transcribe(config(tmp_path), out=tmp_path / "run", resume=True)
    assert data_ledger(tmp_path).path.read_bytes() == before
    assert [r.run for r in data_ledger(tmp_path).runs()] == [run.id]


# ---------------------------------------------------------------- honest actions


@pytest.fixture(scope="module")
def own(root):
    """A file of weights that its owner has trained."""
    home = ensure_teacher(config(root / "elsewhere"), lambda text: None)
    path = root / "own.pt"
    torch.save(load_file(home.path / "weights.safetensors"), path)
    return path


def own_config(root, weights):
    return config(root, teacher={"weights": str(weights)})


def test_copied_renamed_and_converted_weights_keep_their_ledger(root, own, tmp_path):
    first = ensure_teacher(own_config(root, own), lambda text: None)
    copied = tmp_path / "elsewhere" / "another name.pt"
    copied.parent.mkdir()
    shutil.copy(own, copied)
    converted = tmp_path / "own.safetensors"
    save_file(torch.load(own, weights_only=True), converted)
    prefixed = tmp_path / "parallel.pt"
    state = {f"module.{k}": v for k, v in torch.load(own, weights_only=True).items()}
    torch.save({"state_dict": state, "epoch": 3}, prefixed)
    for path in (copied, converted, prefixed):
        again = ensure_teacher(own_config(root, path), lambda text: None)
        assert (again.uuid, again.path) == (first.uuid, first.path)
    assert first.path.parent == root / "teachers" / "own"
    other = torch.load(own, weights_only=True)
    name = next(iter(other))
    other[name] = other[name] + 1e-3
    torch.save(other, tmp_path / "other.pt")
    changed = ensure_teacher(own_config(root, tmp_path / "other.pt"), lambda text: None)
    assert changed.uuid != first.uuid


def test_a_ledger_beside_the_weights_is_not_forgotten(root, own, tmp_path):
    weights = tmp_path / "w.pt"
    shutil.copy(own, weights)
    older = tmp_path / "w.pt.dpsd"
    older.mkdir()
    (older / "teacher.json").write_text("{}")
    with pytest.raises(UserError, match=r"older version kept this teacher's ledger in .*w.pt.dpsd"):
        ensure_teacher(own_config(tmp_path, weights), lambda text: None)
    assert not (tmp_path / "teachers").exists()


def npz(path, rows=300, seed=0, mended=0):
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (rows, 1, 28, 28), dtype=np.uint8)
    images[:mended] = 255 - images[:mended]
    labels = np.arange(rows) % 10
    np.savez(path, images=images, labels=labels)
    return path


def npz_config(root, path, dataset, ids=None, **more):
    data = {"name": "npz", "root": str(path), "shape": [1, 28, 28], "classes": 10, "user_ids": ids}
    return config(root, data=data | ({} if dataset is None else {"dataset": dataset}), **more)


def test_a_mended_row_keeps_the_ledger(tmp_path):
    for mended in (0, 1):
        path = npz(tmp_path / f"{mended}.npz", mended=mended)
        run = transcribe(npz_config(tmp_path, path, "clinic", **ENSEMBLE),
                         out=tmp_path / f"run{mended}")  # fmt: skip
        assert len(facts_of(run)["earlier_runs"]) == mended
        assert facts_of(run)["dataset"] == "clinic"
        assert facts_of(run)["units"] == 270  # a tenth is held out
    assert [p.name for p in (tmp_path / "teachers" / "datasets").iterdir()] == ["clinic"]


@pytest.mark.parametrize("unit", ["record", "user", "client"])
def test_data_without_a_name_get_no_claim_about_their_records(tmp_path, unit):
    tree = {"route": "federated" if unit == "client" else "ensemble", "unit": unit,
            "mechanism": "noisy_votes"}  # fmt: skip
    with pytest.raises(UserError, match=r"data\.dataset: null .*as in clinic-xrays-2024") as e:
        npz_config(tmp_path, tmp_path / "x.npz", None, privacy=tree,
                   teacher={} if unit == "client" else ENSEMBLE["teacher"],
                   ids="users.npz")  # fmt: skip
    assert "\n" not in str(e.value)


def test_a_dp_trained_teacher_needs_the_name_too(tmp_path):
    path = npz(tmp_path / "x.npz")
    unnamed = npz_config(tmp_path, path, None, teacher=INHERITED["teacher"])
    with pytest.raises(UserError, match=r"data\.dataset: null"):
        ensure_teacher(unnamed, lambda text: None)
    assert not list((tmp_path / "teachers").glob("*/weights.safetensors"))


def test_two_data_sets_under_one_name_are_refused(tmp_path):
    transcribe(npz_config(tmp_path, npz(tmp_path / "a.npz"), "clinic"), out=tmp_path / "a")
    other = npz_config(tmp_path, npz(tmp_path / "b.npz", rows=310), "clinic")
    with pytest.raises(UserError, match="clinic has 300 rows by its ledger, these data have 310"):
        transcribe(other, out=tmp_path / "b")
    assert not (tmp_path / "b").exists()
    data_ledger(tmp_path, "clinic").set_rows(310)  # `dpsd ledger clinic --rows 310`
    transcribe(other, out=tmp_path / "b")
    assert len(data_ledger(tmp_path, "clinic").runs()) == 2


def test_an_older_ledger_named_by_content_is_found(tmp_path):
    from dpsd.data.identity import dataset_fingerprint
    from dpsd.data.load import load_data

    wanted = npz_config(tmp_path, npz(tmp_path / "a.npz"), "clinic")
    older = dataset_fingerprint(load_data(wanted.data))
    dataset_folder(tmp_path / "teachers", older).mkdir(parents=True)
    with pytest.raises(UserError, match=r"older version .*; move that folder to .*/clinic, so"):
        ensure_teacher(wanted, lambda text: None)


@pytest.mark.parametrize("name", ["../up", "a/b", "", "-x", "a b", "x" * 101, "é"])
def test_odd_names_are_refused(tmp_path, name):
    with pytest.raises(UserError, match=r"data\.dataset: .* letters, digits") as e:
        npz_config(tmp_path, tmp_path / "x.npz", name)
    assert "\n" not in str(e.value)


def test_the_older_key_is_read(tmp_path):
    tree = {"data": {"name": "digits"}, "teacher": {"dataset": "clinic"}, "privacy": {"epsilon": 1}}
    assert parse_config(tree).data.dataset == "clinic"
    with pytest.raises(UserError, match=r"teacher\.dataset: clinic, but data\.dataset is ward"):
        parse_config(tree | {"data": {"name": "digits", "dataset": "ward"}})


def test_working_directories_share_their_ledgers(tmp_path, monkeypatch):
    monkeypatch.setenv("DPSD_HOME", str(tmp_path / "home"))
    tree = {"teacher": FAST_TEACHER, "privacy": FEW}
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        home = ensure_teacher(parse_config(tree), lambda text: None)
        assert home.path.parent == tmp_path / "home"
    shutil.copytree(tmp_path / "home", tmp_path / "two" / "teachers")
    with pytest.raises(UserError, match=r"\./teachers holds teachers and ledgers; accepted: --set"):
        ensure_teacher(parse_config(tree), lambda text: None)
    adopted = parse_config(tree | {"teacher": FAST_TEACHER | {"root": "teachers"}})
    assert ensure_teacher(adopted, lambda text: None).path.parent.name == "teachers"


def test_weights_that_were_trained_here_are_no_others(root, tmp_path):
    """Before, they had a second ledger, and no data set."""
    home = ensure_teacher(config(tmp_path), lambda text: None)
    copied = shutil.copy(home.path / "weights.safetensors", tmp_path / "mine.safetensors")
    with pytest.raises(UserError, match=r"trained here; accepted: teacher\.path: .*weights: null"):
        ensure_teacher(own_config(tmp_path, copied), lambda text: None)


def test_a_name_given_later_brings_the_earlier_runs_along(tmp_path):
    path = npz(tmp_path / "a.npz")
    first = transcribe(npz_config(tmp_path, path, None), out=tmp_path / "first")
    second = transcribe(npz_config(tmp_path, path, "clinic"), out=tmp_path / "second")
    assert first.teacher == second.teacher
    told = [(r.run, r.event.kind) for r in data_ledger(tmp_path, "clinic").runs()]
    assert told == [(first.id, "open"), (second.id, "open")]


def test_other_teachers_of_the_data_leave_no_bound_for_a_record(tmp_path):
    """Before, line 3 said that a test finds at most 2 % of the records."""
    few = {"epsilon": 0.2, "answers": 4}
    alone = transcribe(config(tmp_path, few), out=tmp_path / "alone")
    assert facts_of(alone)["guarantee"]["record_highest_tpr"] < 0.03
    other = transcribe(config(tmp_path, few, {"seed": 5}), out=tmp_path / "other")
    facts = facts_of(other)
    assert facts["other_runs"] == 1 and facts["guarantee"]["record_highest_tpr"] == 1.0
    text = (other.release / "statement.txt").read_text()
    assert "the data set's ledger holds 1 other run(s), on other teachers" in text
    assert "of the records, users or clients: no bound: up to 100 %" in text
    verify_release(other.release, ledger=other.ledger_folder)


def test_noise_for_the_users_of_one_roster_protects_no_others(tmp_path):
    """Before, users of one row each composed with users of twenty."""

    def users(each):
        path = tmp_path / f"users-{each}.npz"
        ids = np.arange(1438) // each
        np.savez(path, user_ids=ids, roster=np.unique(ids))
        return {"name": "digits", "user_ids": str(path)}

    def votes(each, name):
        tree = {"route": "ensemble", "unit": "user", "mechanism": "noisy_votes"}
        made = config(tmp_path, tree, ENSEMBLE["teacher"], users(each))
        return facts_of(transcribe(made, out=tmp_path / name))["guarantee"]

    votes(1, "a")
    assert votes(1, "b")["composed_epsilon"] < 16
    assert votes(20, "c")["composed_epsilon"] is None


def test_data_sets_may_be_renamed(tmp_path):
    run = transcribe(config(tmp_path, **ENSEMBLE), out=tmp_path / "run")
    folder = dataset_folder(tmp_path / "teachers", "digits")
    folder.rename(folder.with_name("ours"))
    home = read_folder(run.teacher_folder)
    assert home.dataset() == (folder.with_name("ours"), run.ledger)


# ---------------------------------------------------------------- what leaves


def test_nothing_computed_from_private_data_is_in_the_released_configuration(root, own, tmp_path):
    normal = {"mean": [0.137], "std": [0.31]}
    teacher = {"weights": str(own), "normalize": normal, "lr": 0.0123, "epochs": 17, "seed": 41,
               "batch_size": 31}  # fmt: skip
    run = transcribe(config(root, teacher=teacher), out=tmp_path / "hidden")
    released = (run.release / "config.yaml").read_text()
    tree = yaml.safe_load(released)
    assert tree["teacher"] == {"shards": None} and "attacks" not in tree
    for secret in ("0.137", "0.0123", "epochs: 17", "own.pt"):
        for name, raw in contents(run.release).items():
            assert secret.encode() not in raw, name
    public = config(root, teacher=teacher | {"normalize": normal | {"public": True}})
    said = transcribe(public, out=tmp_path / "said")
    listed = facts_of(said)["declared_public"]["teacher_normalisation"]
    assert listed == {"mean": [0.137], "std": [0.31]}
    assert yaml.safe_load((said.release / "config.yaml").read_text())["teacher"]["normalize"] == (
        normal | {"public": True}
    )
    for finished in (run, said):
        verify_release(finished.release, ledger=finished.ledger_folder)


def test_the_officers_lines(root, tmp_path):
    stated = config(root, owner="Clinic, dpo@clinic.example", retention="90 days")
    run = transcribe(stated, out=tmp_path / "run")
    lines = (run.release / "statement.txt").read_text().splitlines()
    assert [line[:2] for line in lines[:5]] == ["1.", "2.", "3.", "4.", "5."]
    assert "single answers of the teacher" in lines[0]
    assert "no bound: up to 100 %" in lines[2]
    assert "Clinic, dpo@clinic.example; data set: digits; begun 20" in lines[4]
    assert "kept: 90 days" in lines[4]
    assert any(line.startswith("Near-duplicates: ") for line in lines)


# ---------------------------------------------------------------- budgets


def test_a_budget_refuses_before_a_teacher_is_trained(tmp_path):
    votes = config(tmp_path, **ENSEMBLE)
    ensure_teacher(config(tmp_path), lambda text: None)  # makes the data set's home
    data_ledger(tmp_path).set_allowance("record", 2.0, 1e-5)
    for refused, message in (
        (votes, "accepted: a run of up to epsilon"),
        (config(tmp_path, **INHERITED), "accepted: a run of up to epsilon"),
        (config(tmp_path), "nothing bounds what it tells of one record"),
    ):
        before = contents(tmp_path / "teachers")
        with pytest.raises(BudgetError, match=message) as e:
            transcribe(refused, out=tmp_path / "run")
        assert "epsilon 2 for one record at delta 1e-05" in str(e.value)
        new = contents(tmp_path / "teachers").keys() - before.keys()
        assert not [n for n in new if "weights" in n or "teacher.json" in n]
        assert not (tmp_path / "run").exists()
    fits = config(tmp_path, **{**ENSEMBLE, "privacy": ENSEMBLE["privacy"] | {"epsilon": 1.6}})
    run = transcribe(fits, out=tmp_path / "fits")
    assert (
        "Budget of the data set, oldest first: epsilon 2 for one record"
        in (run.release / "statement.txt").read_text()
    )
    with pytest.raises(BudgetError, match=r"of which 1\.\d+ is spent"):
        transcribe(fits, out=tmp_path / "more")
    with pytest.raises(UserError, match="below what is spent"):
        data_ledger(tmp_path).set_allowance("record", 0.5, 1e-5)
    data_ledger(tmp_path).set_allowance("record", 3.0, 1e-5)
    raised = transcribe(fits, out=tmp_path / "more")
    assert [b["epsilon"] for b in facts_of(raised)["budgets"]] == [2.0, 3.0]


def test_an_open_run_needs_to_be_allowed_and_is_told(tmp_path):
    ensure_teacher(config(tmp_path), lambda text: None)
    data_ledger(tmp_path).set_allowance("record", 2.0, 1e-5)
    run = transcribe(config(tmp_path, {"allow_open": True}), out=tmp_path / "run")
    (line,) = data_ledger(tmp_path).runs()
    assert line.allow_open and line.run == run.id
    assert "The user allowed this run to go on" in (run.release / "statement.txt").read_text()
    votes = {**ENSEMBLE, "privacy": ENSEMBLE["privacy"] | {"epsilon": 1.0}}
    with pytest.raises(BudgetError, match="an earlier run has no finite epsilon"):
        transcribe(config(tmp_path, **votes), out=tmp_path / "votes")


# ---------------------------------------------------------------- ledgers that lost lines


def test_a_ledger_from_before_a_release_is_refused(tmp_path):
    first = transcribe(config(tmp_path), out=tmp_path / "first")
    backup = tmp_path / "backup"
    shutil.copytree(first.ledger_folder, backup)
    transcribe(config(tmp_path), out=tmp_path / "second")
    home = read_folder(first.teacher_folder)
    newest = json.loads((home.path / "ledger.head.json").read_text())["releases"]
    assert newest == [str(tmp_path / name / "release") for name in ("first", "second")]
    for name in ("ledger.jsonl", "ledger.hashes"):  # a careless restore, which forgets the head
        shutil.copy(backup / name, home.path / name)
    with pytest.raises(UserError, match=r"names line .* which is not the last; restore both"):
        Ledger(home.path, home.uuid)
    facts = json.loads((home.path / "ledger.head.json").read_text())
    older = json.loads((backup / "ledger.head.json").read_text())
    (home.path / "ledger.head.json").write_text(json.dumps(older | {"releases": facts["releases"]}))
    with pytest.raises(UserError, match="second/release names: it was cut, or restored"):
        ledger_of(first)
    with pytest.raises(UserError, match="ledger was cut, restored from before, or is another"):
        verify_release(tmp_path / "second" / "release", ledger=home.path)
