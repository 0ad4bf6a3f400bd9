"""Teachers of every kind learn the same from rows on disk as from rows in memory."""

import json

import pytest
import torch
from picture_data import SIZE, both_ways, picture_folder, stay_on_disk

from dpsd.config import PublicFacts, parse_config
from dpsd.config.sections import DpConfig, TeacherConfig
from dpsd.models.networks import build_model
from dpsd.privacy.noise import NoiseSource
from dpsd.teachers.dp_sgd import train_dp
from dpsd.teachers.ensemble import train_ensemble
from dpsd.teachers.members import Members, train_members
from dpsd.teachers.sharding import shard_rows
from dpsd.teachers.teacher import ensure_teacher

FACTS = PublicFacts((1, SIZE, SIZE), 2, ("dark", "bright"))
CPU, KEY = torch.device("cpu"), bytes(range(16))


@pytest.mark.parametrize("model", ["cnn-tiny", "scatter-linear"])
def test_members_of_an_ensemble(model, tmp_path, monkeypatch):
    recipe = TeacherConfig(model=model, shards=3, shard_steps=4, shard_batch=5, copies=2)
    weights = []
    for data in both_ways(picture_folder(tmp_path), monkeypatch):
        rows = dict(enumerate(shard_rows(len(data.train), 3, KEY).rows()))
        members = Members(data.train.images, data.train.labels, rows, KEY)
        weights.append(train_members(recipe, FACTS, members, device=CPU, dtype=torch.float32))
    assert all(torch.equal(w, weights[1][name]) for name, w in weights[0].items())


@pytest.mark.parametrize("model", ["cnn-tanh", "scatter-linear"])
def test_dp_sgd(model, tmp_path, monkeypatch):
    dp = DpConfig(epsilon=1e6, noise_multiplier=0.5, batch_size=8, epochs=2, lr=0.5)
    weights = []
    for data in both_ways(picture_folder(tmp_path), monkeypatch):
        torch.manual_seed(0)
        net = build_model(model, FACTS.shape, 2, norm="group")
        train_dp(net, data.train.images, data.train.labels, dp,
                 source=NoiseSource(b"seed"), say=lambda text: None)  # fmt: skip
        weights.append(torch.cat([p.detach().flatten() for p in net.parameters()]))
    # Features of other chunks may differ in their last bit of float16.
    atol = 0.0 if model == "cnn-tanh" else 1e-4
    torch.testing.assert_close(*weights, atol=atol, rtol=0)


def config(root, **teacher):
    data = {"name": "image_folder", "root": str(root / "images"), "classes": 2,
            "shape": list(FACTS.shape), "dataset": "pictures"}  # fmt: skip
    small = {"model": "cnn-tiny", "batch_size": 8, "root": str(root / "teachers")}
    return parse_config({"data": data, "device": "cpu", "precision": "float32",
                         "teacher": small | teacher, "privacy": {"epsilon": 1.0}})  # fmt: skip


def test_a_teacher_is_trained_once_and_knows_its_rows(tmp_path, monkeypatch):
    picture_folder(tmp_path / "images", tests=5)
    stay_on_disk(monkeypatch)
    said = []
    home = ensure_teacher(config(tmp_path, epochs=6), said.append)
    assert home.facts["accuracy"]["test"] == home.facts["accuracy"]["holdout"] == 1.0
    assert [line for line in said if "stay on disk" in line] == [said[0]]
    again = []
    assert ensure_teacher(config(tmp_path, epochs=6), again.append).uuid == home.uuid
    assert again == said[:1]


def test_an_ensemble_measures_its_vote_from_disk(tmp_path, monkeypatch):
    memory, disk = both_ways(picture_folder(tmp_path / "images", tests=5), monkeypatch)
    shards = parse_config(
        config(tmp_path, shards=2, shard_steps=30).model_dump(mode="json")
    )  # fmt: skip
    monkeypatch.setattr("dpsd.teachers.sharding._BY_CLASS", {})
    measured = []
    for name, data in (("memory", memory), ("disk", disk)):
        train_ensemble(shards, data, tmp_path / name, lambda text: None, key=KEY)
        measured.append(json.loads((tmp_path / name / "teacher.json").read_text()))
    assert measured[0]["accuracy"] == measured[1]["accuracy"]
    assert measured[1]["accuracy"]["holdout"] > 0.7
