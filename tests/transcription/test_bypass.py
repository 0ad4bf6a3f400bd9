"""Attempts to get an answer that no statement counts. docs/concepts.md lists what stops each.

An attempt ends in one of two ways: it is refused in one line, or the next statement counts what it
got. What nothing on the operator's own machine can stop is listed in docs/concepts.md too.
"""

import json
import shutil
from dataclasses import replace

import pytest
import torch
from products import few_config as config
from safetensors.torch import load_file, save_file

from dpsd.data.identity import dataset_folder, read_dataset
from dpsd.errors import UserError
from dpsd.privacy import inherited
from dpsd.privacy.ledger import Ledger, image_hashes, open_ledger
from dpsd.privacy.oracle import Oracle
from dpsd.privacy.plan import make_plan
from dpsd.runs.begin import create_run
from dpsd.runs.folder import Run
from dpsd.teachers.folder import read_folder
from dpsd.teachers.teacher import ensure_teacher, load_teacher
from dpsd.transcription.begin import plan_of
from dpsd.transcription.entries import enter, ledger_of
from dpsd.transcription.transcribe import transcribe

DP = {"model": "scatter-linear", "dp": {"epsilon": 3.0, "epochs": 1, "batch_size": 500}}
INHERITED = {"route": "inherited", "unit": "record", "mechanism": "none", "epsilon": None}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A root with a teacher, a finished run, and a run that has asked half of its answers."""
    root = tmp_path_factory.mktemp("bypass")
    home = ensure_teacher(config(root), lambda text: None)
    transcribe(config(root), out=root / "finished")
    half = create_run(root / "half", config(root), home.uuid, home.path, data_is_public=False)
    oracle = open_oracle(half)
    oracle.answer(images(20), prior)
    ensure_teacher(config(root, INHERITED, DP), lambda text: None)
    return root


@pytest.fixture
def root(made, tmp_path):
    """A copy of it all, whose runs know the copy."""
    shutil.copytree(made, tmp_path / "root")
    for path in (tmp_path / "root").glob("*/private/run.json"):
        path.write_text(path.read_text().replace(str(made), str(tmp_path / "root")))
    return tmp_path / "root"


def images(n, seed=0):
    rng = torch.Generator().manual_seed(seed)
    return torch.randint(256, (n, 1, 28, 28), generator=rng, dtype=torch.uint8)


def prior(x):
    return torch.full((len(x), 10), 0.1)


def open_oracle(run, plan=None):
    home, plan = read_folder(run.teacher_folder), plan or plan_of(run)
    enter(run, plan, home)
    teacher = load_teacher(run.config, home)
    return Oracle(teacher, plan, ledger_of(run), run.id, run.started, run.bank)


def teacher_ledger(root):
    home = next(p for p in (root / "teachers").glob("*/teacher.json")
                if json.loads(p.read_text())["kind"] == "plain").parent  # fmt: skip
    return open_ledger(home)


def data_ledger(root):
    folder = dataset_folder(root / "teachers", "digits")
    return Ledger(folder, read_dataset(folder)["uuid"])


def ask_more_than_planned(root):
    open_oracle(Run(root / "half")).answer(images(21, seed=1), prior)


def ask_an_image_twice(root):
    open_oracle(Run(root / "half")).answer(images(1), prior)


def ask_in_a_copy_of_the_run_at_once(root):
    shutil.copytree(root / "half", root / "copy")
    one, other = open_oracle(Run(root / "half")), open_oracle(Run(root / "copy"))
    one.answer(images(20, seed=1), prior)
    other.answer(images(20, seed=2), prior)


def ask_under_a_weaker_plan_in_the_same_run(root):
    run = Run(root / "half")
    weaker = replace(make_plan(config(root, {"epsilon": 30.0})), asked=run.teacher)
    open_oracle(run, weaker).answer(images(20, seed=1), prior)


def ask_with_a_larger_cap_in_the_same_run(root):
    run = Run(root / "half")
    open_oracle(run, replace(plan_of(run), answers=10_000)).answer(images(50, seed=1), prior)


def seed_the_noise_of_a_run_that_began_without(root):
    run = Run(root / "half")
    open_oracle(run, replace(plan_of(run), seeded_noise=True)).answer(images(20, seed=1), prior)


def resume_with_another_configuration(root):
    transcribe(config(root, {"epsilon": 9.0}), out=root / "half", resume=True)


def restore_the_ledger_from_before(root):
    ledger = teacher_ledger(root)
    lines = ledger.path.read_bytes().splitlines(keepends=True)
    ledger.path.write_bytes(b"".join(lines[:-1]))
    open_oracle(Run(root / "half")).answer(images(20, seed=1), prior)


def remove_the_ledger(root):
    teacher_ledger(root).path.unlink()
    transcribe(config(root), out=root / "new")


def remove_all_of_the_ledger_but_its_key(root):
    for name in ("ledger.jsonl", "ledger.hashes", "ledger.head.json"):
        teacher_ledger_file(root, name).unlink()
    transcribe(config(root), out=root / "new")


def teacher_ledger_file(root, name):
    (key,) = (root / "teachers").glob("*/ledger.key")
    return key.with_name(name)


def put_the_ledger_of_another_teacher_there(root):
    path = teacher_ledger(root).path
    shutil.copy(data_ledger(root).path, path)
    transcribe(config(root), out=root / "new")


def edit_a_line(root):
    path = teacher_ledger(root).path
    path.write_text(path.read_text().replace('"epsilon": 8.0', '"epsilon": 0.8', 1))
    transcribe(config(root), out=root / "new")


def other_weights_in_the_place_of_a_dp_trained_teacher(root):
    (dp,) = (root / "teachers").glob("*/dp.json")
    weights = dp.with_name("weights.safetensors")
    save_file({k: v + 1 for k, v in load_file(weights).items()}, weights)
    transcribe(config(root, INHERITED, DP), out=root / "new")


def a_quieter_training_written_into_the_dp_ledger(root):
    transcribe(config(root, INHERITED, DP), out=root / "first")
    (dp,) = (root / "teachers").glob("*/dp.json")
    facts = json.loads(dp.read_text()) | {"noise_multiplier": 99.0}
    facts.pop("checksum")
    dp.write_text(json.dumps(facts | {"checksum": inherited._checksum(facts)}))
    transcribe(config(root, INHERITED, DP), out=root / "new")


def move_the_teacher_away_from_its_data_set(root):
    (dp,) = (root / "teachers").glob("*/dp.json")
    shutil.copytree(dp.parent, root / "elsewhere" / "teacher")
    path = {"path": str(root / "elsewhere" / "teacher")}
    transcribe(config(root, INHERITED, path), out=root / "new")


def another_name_for_the_data_set_of_a_teacher(root):
    data = {"name": "digits", "dataset": "others"}
    transcribe(config(root, data=data), out=root / "new")


def ask_a_copied_teacher(root):
    plain = teacher_ledger(root).path.parent
    shutil.copytree(plain, plain.with_name("copied"))
    transcribe(config(root), out=root / "one")
    path = {"path": str(plain.with_name("copied"))}
    transcribe(config(root, teacher=path), out=root / "new")


def ask_weights_that_were_trained_here(root):
    shutil.copy(teacher_ledger(root).path.with_name("weights.safetensors"), root / "w.safetensors")
    own = {"weights": str(root / "w.safetensors")}
    data = {"name": "none", "shape": [1, 28, 28], "classes": 10}
    transcribe(config(root, teacher=own, data=data), out=root / "new")


def charge_a_run_that_was_never_entered(root):
    ledger = teacher_ledger(root)
    ledger.charge("nobody's", 0, image_hashes(images(1)))


def exceed_the_budget_by_another_route(root):
    ledger = data_ledger(root)
    ledger._append({"kind": "budget", "unit": "record", "epsilon": 1.0, "delta": 1e-5, "set": ""})
    transcribe(config(root), out=root / "new")


REFUSED = {
    ask_more_than_planned: "21 more after 20 would exceed the cap of 40",
    ask_an_image_twice: "an image would be asked 2 times",
    ask_in_a_copy_of_the_run_at_once: "stands at 40 answers, not 20",
    ask_under_a_weaker_plan_in_the_same_run: "was entered with another plan: event Pure",
    ask_with_a_larger_cap_in_the_same_run: "entered with another plan: cap 40 in the ledger",
    seed_the_noise_of_a_run_that_began_without: "entered with another plan: seeded_noise False",
    resume_with_another_configuration: "another configuration: privacy.epsilon (8.0 -> 9.0)",
    restore_the_ledger_from_before: "names line 6, which is not the last",
    remove_the_ledger: "ledger.hashes beside it holds answers",
    remove_all_of_the_ledger_but_its_key: "ledger.key beside it has signed releases",
    put_the_ledger_of_another_teacher_there: "belongs to teacher",
    edit_a_line: "line 2 fails its checksum",
    other_weights_in_the_place_of_a_dp_trained_teacher: "its training gave other weights",
    a_quieter_training_written_into_the_dp_ledger: "was entered with another training",
    move_the_teacher_away_from_its_data_set: "no home of a data set's ledger",
    another_name_for_the_data_set_of_a_teacher: "charges the ledger of data set digits",
    ask_a_copied_teacher: "the teacher's folder was copied",
    ask_weights_that_were_trained_here: "which was trained here; accepted: teacher.path",
    charge_a_run_that_was_never_entered: "holds no run nobody's",
    exceed_the_budget_by_another_route: "an earlier run has no finite epsilon",
}


@pytest.mark.parametrize("attempt", REFUSED, ids=lambda f: f.__name__)
def test_an_attempt_is_refused_in_one_line(root, attempt):
    with pytest.raises(UserError) as e:
        attempt(root)
    assert REFUSED[attempt] in str(e.value)
    assert "\n" not in str(e.value)
    assert not (root / "new" / "private" / "bank").exists()  # nothing half-written


def ask_in_a_second_run(root):
    return transcribe(config(root), out=root / "new")


def ask_by_another_route_on_the_same_data(root):
    return transcribe(config(root, INHERITED, DP), out=root / "new")


def ask_a_copy_of_the_weights(root):
    home = next(p for p in (root / "teachers").glob("*/teacher.json")
                if json.loads(p.read_text())["kind"] == "plain").parent  # fmt: skip
    own = {k: v * 1.01 for k, v in load_file(home / "weights.safetensors").items()}
    for name in ("a.safetensors", "b.safetensors"):
        save_file(own, root / name)
        run = transcribe(
            config(root, teacher={"weights": str(root / name)}), out=root / f"own-{name}"
        )
    return run


COUNTED = [ask_in_a_second_run, ask_by_another_route_on_the_same_data, ask_a_copy_of_the_weights]


@pytest.mark.parametrize("attempt", COUNTED, ids=lambda f: f.__name__)
def test_an_attempt_is_counted_by_the_next_statement(root, attempt):
    run = attempt(root)
    facts = json.loads((run.release / "statement.json").read_text())
    earlier = {r["run"] for r in facts["earlier_runs"]}
    assert earlier and facts["run"] not in earlier
    everything = {r.run for r in data_ledger(root).runs()}
    assert {facts["run"], Run(root / "half").id, Run(root / "finished").id} <= everything
