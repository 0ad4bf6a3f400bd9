"""The teacher's home: whose ledger is charged."""

import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from products import tiny_config

from dpsd.config import parse_config
from dpsd.errors import UserError
from dpsd.models.networks import build_model
from dpsd.teachers import folder as folders
from dpsd.teachers import teacher as teachers
from dpsd.teachers.folder import read_folder
from dpsd.teachers.teacher import ensure_teacher, load_teacher


@pytest.mark.parametrize("own", [False, True])
def test_two_at_once_that_lack_a_teacher_find_the_same(tmp_path, monkeypatch, own):
    tree = tiny_config(tmp_path).model_dump(mode="json")
    if own:
        path = tmp_path / "w.pt"
        torch.save(build_model("cnn-small", (1, 28, 28), 10).state_dict(), path)
        tree["teacher"] |= {"weights": str(path)}
    module, name = (folders, "load_own_teacher") if own else (teachers, "train_teacher")
    made, whole, together = [], getattr(module, name), threading.Barrier(2)

    def slow(*args):
        made.append(1)
        time.sleep(0.5)
        return whole(*args)

    monkeypatch.setattr(module, name, slow)

    def ask(_):
        together.wait()
        return ensure_teacher(parse_config(tree), lambda text: None).uuid

    with ThreadPoolExecutor(2) as pool:
        assert len(set(pool.map(ask, range(2)))) == 1
    assert own or len(made) == 1


@pytest.mark.parametrize("named", [False, True])
def test_changed_weights_are_not_charged_to_the_old_ledger(tmp_path, named):
    """Also when the folder is known, as on resume, or named by teacher.path."""
    path = tmp_path / "w.pt"
    tree = {
        "device": "cpu",
        "data": {"name": "none", "shape": [1, 28, 28], "classes": 10},
        "teacher": {"model": "cnn-small", "weights": str(path)},
        "privacy": {"epsilon": 1.0},
    }
    torch.save(build_model("cnn-small", (1, 28, 28), 10).state_dict(), path)
    home = ensure_teacher(parse_config(tree), lambda text: None)
    load_teacher(parse_config(tree), home)
    torch.save(build_model("cnn-small", (1, 28, 28), 10).state_dict(), path)
    if named:
        tree["teacher"]["path"] = str(home.path)
        home = ensure_teacher(parse_config(tree), lambda text: None)
    with pytest.raises(UserError, match="is not the teacher that"):
        load_teacher(parse_config(tree), home)


@pytest.mark.parametrize(
    ("recipe", "kind"),
    [
        (None, "own"),
        ({"model": "cnn", "epochs": 3}, "plain"),
        ({"model": "cnn", "dp": {"epsilon": 3.0}}, "dp_sgd"),
        ({"model": "cnn", "shards": 5, "unit": "user"}, "ensemble"),
    ],
)
def test_a_folder_written_before_kinds_were_is_known_by_its_recipe(tmp_path, recipe, kind):
    (tmp_path / "teacher.json").write_text(json.dumps({"uuid": "t", "recipe": recipe}))
    home = read_folder(tmp_path)
    assert (home.kind, home.recipe) == (kind, recipe or {})
    assert (home.shards, home.unit) == ((5, "user") if kind == "ensemble" else (None, None))


@pytest.mark.parametrize("kind", ["own", "plain", "dp_sgd", "ensemble"])
def test_a_new_folder_names_its_kind(tmp_path, kind):
    tree = tiny_config(tmp_path).model_dump(mode="json")
    if kind == "own":
        tree["teacher"] |= {"weights": str(tmp_path / "w.pt")}
        torch.save(build_model("cnn-small", (1, 28, 28), 10).state_dict(), tmp_path / "w.pt")
    if kind == "dp_sgd":
        tree["teacher"]["dp"] = {"epsilon": 50.0, "noise_multiplier": 2.0, "batch_size": 64,
                                 "epochs": 0.1}  # fmt: skip
    if kind == "ensemble":
        tree["teacher"] |= {"model": "cnn-tiny", "shards": 3, "shard_steps": 1}
    home = ensure_teacher(parse_config(tree), lambda text: None)
    facts = json.loads((home.path / "teacher.json").read_text())
    assert home.kind == facts["kind"] == kind
    assert home.shards == (3 if kind == "ensemble" else None)
