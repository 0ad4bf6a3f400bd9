"""`dpsd init`: the route that fits what somebody has, a file that plans, and an honest promise."""

import io
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

import dpsd
from dpsd.cli import main
from dpsd.config import load_config
from dpsd.data.glance import glance
from dpsd.errors import UserError
from dpsd.planning.first import Holdings, choose, first_config, kind_of

OWN = {"shape": (3, 64, 64), "classes": 4}
CASES = {
    "a checkpoint only": ({"weights": "my.pt", "model": "resnet18", **OWN}, "single", "answer"),
    "a model that must stay": (
        {"data": "digits", "weights": "my.pt", "model": "resnet18", "training": "no"},
        "single", "answer",
    ),
    "data": ({"data": "mnist"}, "inherited", "record"),
    "own data": ({"data": "xrays", "rows": 20_000, **OWN}, "inherited", "record"),
    "data, no DP-SGD": ({"data": "mnist", "training": "shards"}, "ensemble", "record"),
    "users": ({"data": "u.npz", "users": "ids.npz", "rows": 60_000, **OWN}, "ensemble", "user"),
    "few clients": ({"data": "mnist", "clients": 5, "training": "no", "weights": "w.pt",
                     "model": "resnet18"}, "federated", "answer"),
    "few clients who train": ({"data": "mnist", "clients": 5}, "federated", "record"),
    "many clients": ({"data": "xrays", "rows": 200_000, "clients": 500, **OWN},
                     "federated", "client"),
}  # fmt: skip


@pytest.mark.parametrize(("has", "route", "unit"), CASES.values(), ids=CASES.keys())
def test_each_case_gets_its_route_and_a_short_file_that_plans(has, route, unit, tmp_path):
    first = first_config(Holdings(**has), "my.yaml")
    assert choose(Holdings(**has)) == (route, unit)
    path = tmp_path / "my.yaml"
    path.write_text(first.text)
    assert load_config(path) == first.config
    lines = first.text.splitlines()
    assert len(lines) < 25 and max(map(len, lines)) <= 100 and first.text.count("#") >= 4
    plan = dpsd.plan(path)  # what `dpsd plan` refuses, this refuses
    assert (plan.route, plan.unit) == (route, unit)
    will, not_ = first.protects
    assert will.startswith("Will protect: one ") and f"one {unit}" in will
    assert not_.startswith("Will not protect: ") and "one" in not_
    assert f"dpsd plan {'my.yaml'}" in first.next and first.next[-1].startswith("dpsd verify")


def test_natural_pictures_are_asked_about_crops_of_photographs():
    """The same in the file that is ready to copy."""
    first = first_config(Holdings(weights="my.pt", model="resnet18", **OWN), "f")
    copied = load_config(Path(__file__).parents[2] / "configs/custom.yaml")
    assert copied.facts.shape == OWN["shape"]
    assert first.config.generator.shares == copied.generator.shares == {"photographs": 1}
    assert first.config.generator.photographs is copied.generator.photographs is None
    assert "declared public" in first.text


@pytest.mark.parametrize(
    ("side", "model", "batch"),
    [(40, "cnn-small", 256), (64, "resnet20", 256), (96, "resnet20", 256), (97, "resnet18", 32),
     (224, "resnet18", 32)],
)  # fmt: skip
def test_large_images_get_a_student_and_a_batch_that_fit_in_memory(side, model, batch):
    has = Holdings(weights="my.pt", model="resnet18", shape=(3, side, side), classes=4)
    first = first_config(has, "f")
    assert (first.config.student.model, first.config.student.batch_size) == (model, batch)
    assert len(first.text.splitlines()) < 25 and max(map(len, first.text.splitlines())) <= 100


def test_the_worst_case_for_a_record_stands_beside_an_answer(tmp_path):
    first = first_config(Holdings(weights="my.pt", model="resnet18", epsilon=4, **OWN), "f")
    worst = dpsd.plan(yaml.safe_load(first.text)).worst_case_epsilon(1e-5)
    assert f"epsilon {worst:,.0f} for one record"[:18] in first.protects[1]
    assert "epsilon 4 per answer" in first.protects[0] and worst > 1000


def test_delta_stays_below_one_over_the_units():
    rows = {20_000: 1e-5, 99_999: 1e-5, 100_000: 1e-6, 2_000_000: 1e-7}
    for n, delta in rows.items():
        first = first_config(Holdings(data="xrays", rows=n, **OWN), "f")
        assert first.config.teacher.dp.delta == pytest.approx(delta) and delta < 1 / n


def test_what_a_flag_said_is_written():
    has = Holdings(weights="m.pt", model="resnet18", epsilon=1, dataset="clinic", **OWN)
    first = first_config(has, "f")
    assert first.config.data.dataset == "clinic"
    (line,) = [x for x in first.text.splitlines() if "answers:" in x]
    assert "100000" in line and "# more teach more: `dpsd plan` estimates the time" in line


def test_small_epsilon_asks_yes_or_no():
    asked = [
        first_config(Holdings(weights="m.pt", model="resnet18", epsilon=e, **OWN), "f").config
        for e in (1, 4)
    ]
    assert [c.privacy.ask for c in asked] == ["group", "label"]


def test_shards_come_from_the_roster_where_it_is_there(tmp_path):
    np.savez(tmp_path / "ids.npz", roster=np.arange(300), user_ids=np.zeros(9))
    has = Holdings(data="u.npz", users=str(tmp_path / "ids.npz"), rows=60_000, **OWN)
    assert first_config(has, "f").config.teacher.shards <= 270


def test_kinds_of_data(tmp_path):
    (tmp_path / "tars").mkdir()
    (tmp_path / "tars" / "0.tar").touch()
    given = [None, "mnist", "my.npz", "pkg.mod:load", str(tmp_path), str(tmp_path / "tars")]
    assert [kind_of(x) for x in given] == [
        "none", "mnist", "npz", "pkg.mod:load", "webdataset", "webdataset",
    ]  # fmt: skip
    assert kind_of(str(tmp_path / "pictures")) == "image_folder"


@pytest.mark.parametrize(
    ("has", "message"),
    [
        ({}, "--data, --weights: neither"),
        ({"data": "mnist", "training": "no"}, "--train no"),
        ({"weights": "a.pt", **OWN}, "--model: missing"),
        ({"data": "xrays", "rows": 9}, "--shape: missing"),
        ({"data": "xrays", **OWN}, "--rows: missing"),
        ({"weights": "a.pt", "model": "m", "users": "u.npz", **OWN}, "--users: u.npz"),
        ({"weights": "a.pt", "model": "m", "clients": 3, **OWN}, "--data: missing"),
        ({"data": "x", "training": "shards", "rows": 6, **OWN}, "too few to cut into shards"),
    ],
)
def test_what_is_missing_is_named(has, message):
    with pytest.raises(UserError, match=message):
        first_config(Holdings(**has), "f")


def test_the_command_writes_once(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    path = tmp_path / "my.yaml"
    assert main(["init", str(path), "--data", "mnist"]) == 0
    out = capsys.readouterr().out
    assert "route inherited, unit record" in out and "Will not protect: " in out
    before = path.read_text()
    assert main(["init", str(path), "--data", "mnist", "--train", "shards"]) == 2
    assert "--force" in capsys.readouterr().err and path.read_text() == before
    assert main(["init", str(path), "--data", "mnist", "--train", "shards", "--force"]) == 0
    assert "ensemble" in path.read_text()
    assert main(["init", str(tmp_path / "b.yaml")]) == 2
    assert "no terminal" in capsys.readouterr().err and not (tmp_path / "b.yaml").exists()
    assert main(["init", str(tmp_path / "b.yaml"), "--data", "mnist", "--weights", "w.pt",
                 "--model", "resnet18"]) == 2  # fmt: skip
    assert "--train: missing" in capsys.readouterr().err


class _Terminal(io.StringIO):
    def isatty(self):
        return True


def test_five_questions_at_a_terminal(tmp_path, monkeypatch):
    answers = "xrays\n3,64\n3,64,64\n4\n20000\nclinic\n\nmaybe\nshards\n\n\n"
    shown = _Terminal()
    monkeypatch.setattr(sys, "stdin", _Terminal(answers))
    monkeypatch.setattr(sys, "stdout", shown)
    assert main(["init", str(tmp_path / "my.yaml")]) == 0
    monkeypatch.undo()
    text = shown.getvalue()
    assert [f"{n}. " in text for n in range(1, 7)] == [True] * 5 + [False]
    assert "3,64 is not accepted" in text and "maybe is not accepted" in text
    config = load_config(tmp_path / "my.yaml")
    assert (config.privacy.route, config.data.dataset) == ("ensemble", "clinic")


def _clinic(folder, kind):
    """300 pictures of 40 x 48 in three classes; returns the place."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (330, 40, 48, 3), dtype=np.uint8)
    if kind == "npz":
        np.savez(folder / "xrays.npz", images=images[:300], labels=np.arange(300) % 3,
                 test_images=images[300:], test_labels=np.arange(30) % 3)  # fmt: skip
        return folder / "xrays.npz"
    for i, image in enumerate(images[:300]):
        place = folder / "xrays" / f"class-{i % 3}"
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(place / f"{i}.png")
    return folder / "xrays"


@pytest.mark.parametrize("kind", ["npz", "folder"])
def test_what_can_be_seen_is_not_asked(tmp_path, monkeypatch, kind):
    place, shown = _clinic(tmp_path, kind), _Terminal()
    monkeypatch.setattr(sys, "stdin", _Terminal(f"{place}\nclinic\nlost.pt\nresnet18\nno\n\n\n"))
    monkeypatch.setattr(sys, "stdout", shown)
    assert main(["init", str(tmp_path / "my.yaml")]) == 0
    monkeypatch.undo()
    text = shown.getvalue()
    assert f"seen in {place}: --shape 3,40,48 --classes 3 --rows 300;" in text
    assert "--weights: lost.pt is not there yet" in text
    config = load_config(tmp_path / "my.yaml")
    assert (config.facts.shape, config.facts.classes) == ((3, 40, 48), 3)


def test_rows_become_public_in_two_digits(tmp_path, capsys):
    np.savez(tmp_path / "a.npz", x=np.zeros((1234, 8, 9), np.uint8), y=np.arange(1234) % 5)
    command = ["init", str(tmp_path / "my.yaml"), "--data", str(tmp_path / "a.npz")]
    assert main(command) == 0
    out = capsys.readouterr().out
    assert "--shape 1,8,9 --classes 5 --rows 1200;" in out


def test_pictures_of_several_sizes_need_a_shape(tmp_path, capsys):
    place = _clinic(tmp_path, "folder")
    Image.new("RGB", (7, 7)).save(place / "class-0" / "0.png")
    assert main(["init", str(tmp_path / "my.yaml"), "--data", str(place)]) == 2
    assert "--shape: missing" in capsys.readouterr().err
    assert glance(tmp_path / "nothing") is None and not (tmp_path / "my.yaml").exists()


@pytest.mark.parametrize("name", ["clinic", ""])
def test_a_model_alone_may_name_the_data_behind_it(tmp_path, monkeypatch, name):
    monkeypatch.setattr(sys, "stdin", _Terminal(f"\n3,64,64\n4\n{name}\nmy.pt\nresnet18\n"))
    monkeypatch.setattr(sys, "stdout", _Terminal())
    assert main(["init", str(tmp_path / "my.yaml")]) == 0
    monkeypatch.undo()
    config = load_config(tmp_path / "my.yaml")
    assert (config.data.name, config.data.dataset) == ("none", name or None)


def test_an_interrupted_interview_writes_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdin", _Terminal("mnist\n"))
    monkeypatch.setattr(sys, "stdout", _Terminal())
    assert main(["init", str(tmp_path / "my.yaml")]) == 2
    assert not (tmp_path / "my.yaml").exists()
