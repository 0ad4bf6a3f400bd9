"""Nothing couples two teachers: one replaced record or user changes one of them, bit for bit."""

import json
import subprocess
import sys

import pytest
import torch

from dpsd.cli import main
from dpsd.config import PublicFacts, parse_config
from dpsd.config.sections import TeacherConfig
from dpsd.data.load import load_data
from dpsd.errors import UserError
from dpsd.evaluation.measures import on_rows
from dpsd.teachers.ensemble import train_ensemble
from dpsd.teachers.folder import as_logits, read_folder
from dpsd.teachers.members import Members, chunks, ensemble_votes, member_choices, train_members
from dpsd.teachers.sharding import load_shards, shard_rows, shard_users
from dpsd.teachers.teacher import ensure_teacher, load_teacher

KEY = bytes(range(16))
FACTS = PublicFacts((1, 12, 12), 4, ("a", "b", "c", "d"))
CPU = torch.device("cpu")
NETWORKS = [("cnn-tiny", torch.float32), ("cnn-tiny", torch.bfloat16), ("cnn-small", torch.float32)]
ALL = [*NETWORKS, ("scatter-linear", torch.float32)]
N, ROWS = 6, 61


def world(model, dtype, images, labels, shards):
    recipe = TeacherConfig(
        model=model, shards=N, shard_steps=6, shard_batch=8, augment="affine", copies=3
    )
    members = Members(images, labels, dict(enumerate(shards.rows())), KEY)
    return train_members(recipe, FACTS, members, device=CPU, dtype=dtype)


def private_rows(rows=ROWS):
    rng = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (rows, *FACTS.shape), dtype=torch.uint8, generator=rng)
    return images, torch.randint(0, 4, (rows,), generator=rng)


def changed(one, two):
    """The numbers of the teachers of whom any bit differs."""
    same = torch.ones(N, dtype=torch.bool)
    for name in one:
        a, b = (w[name].flatten(0) if w[name].ndim == 1 else w[name].flatten(1) for w in (one, two))
        bits = (t.reshape(N, -1).contiguous().view(torch.uint8) for t in (a, b))
        same &= torch.eq(*bits).all(1)
    return (~same).nonzero().flatten().tolist()


@pytest.mark.parametrize(("model", "dtype"), ALL)
@pytest.mark.parametrize("pixels", ["inverted", "black", "white"])
def test_a_replaced_record_changes_one_teacher(model, dtype, pixels):
    images, labels = private_rows()
    shards = shard_rows(ROWS, N, KEY)
    other, wrong = images.clone(), labels.clone()
    row = 17
    other[row] = {"inverted": 255 - images[row], "black": 0, "white": 255}[pixels]
    wrong[row] = (wrong[row] + 1) % 4
    before = world(model, dtype, images, labels, shards)
    assert changed(before, world(model, dtype, images, labels, shards)) == []
    after = world(model, dtype, other, wrong, shards)
    assert changed(before, after) == [int(shards.teacher_of[row])]
    ask = [ensemble_votes(model, FACTS, w, CPU, dtype) for w in (before, after)]
    queries = private_rows(300)[0]
    moved = (ask[0](queries) - ask[1](queries)).abs()
    assert int(moved.sum(1).max()) <= 2 and int(moved.max()) <= 1  # two cells by one
    assert (ask[0](queries).sum(1) == N).all()


@pytest.mark.parametrize(("model", "dtype"), NETWORKS)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e30])
def test_a_record_that_is_nan_or_explodes_changes_one_teacher(model, dtype, value):
    """Floats never get past `load_data`; the training itself must hold all the same."""
    images, labels = private_rows()
    images, shards = images.float(), shard_rows(ROWS, N, KEY)
    other = images.clone()
    other[17] = value
    before, after = (world(model, dtype, x, labels, shards) for x in (images, other))
    assert changed(before, after) == [int(shards.teacher_of[17])]
    if value != 1e30:
        broken = member_choices(model, FACTS, after, CPU, dtype)(private_rows()[0])
        assert (broken[shards.teacher_of[17]] == 0).all()


@pytest.mark.parametrize(("model", "dtype"), ALL)
@pytest.mark.parametrize("rows", [0, 100])
def test_a_replaced_user_changes_one_teacher(model, dtype, rows):
    """Also one ten times larger than the rest, or without rows, so that an empty shard appears."""
    images, labels = private_rows()
    users = torch.arange(ROWS) % N  # as many users as teachers: one user a shard
    kept = users != 2
    more, theirs = private_rows(rows)
    worlds = (
        (images, labels, users),
        (torch.cat([more, images[kept]]), torch.cat([theirs, labels[kept]]),
         torch.cat([torch.full((rows,), 2), users[kept]])),
    )  # fmt: skip
    shards = [shard_users(u, N, N, KEY) for _, _, u in worlds]
    found = [world(model, dtype, *w[:2], s) for w, s in zip(worlds, shards, strict=True)]
    own = int(shards[0].teacher_of[users == 2][0])
    assert changed(*found) == [own]
    votes = member_choices(model, FACTS, found[1], CPU, dtype)(private_rows()[0])
    assert bool(found[1]["empty"][own]) == (rows == 0)
    assert rows or (votes[own] == 0).all()


def test_teachers_learn_and_differ():
    """Labels say which quarter is bright: each member far above chance, no two alike."""
    rng = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 4, (240,), generator=rng)
    images = torch.randint(0, 60, (240, *FACTS.shape), dtype=torch.uint8, generator=rng)
    for image, label in zip(images, labels.tolist(), strict=True):
        image.unflatten(1, (2, 6)).unflatten(3, (2, 6))[:, label // 2, :, label % 2] += 150
    recipe = TeacherConfig(model="cnn-tiny", shards=N, shard_steps=60, shard_batch=16)
    rows = dict(enumerate(shard_rows(240, N, KEY).rows()))
    members = Members(images, labels, rows, KEY)
    weights = train_members(recipe, FACTS, members, device=CPU, dtype=torch.float32)
    votes = member_choices("cnn-tiny", FACTS, weights, CPU, torch.float32)(images)
    assert (votes == labels).float().mean(1).min() > 0.8
    assert len(weights["body.0.weight"].flatten(1).unique(dim=0)) == N


def test_a_teacher_whose_logits_are_not_finite_votes_for_class_0():
    images, labels = private_rows()
    for model in ("cnn-tiny", "scatter-linear"):
        weights = world(model, torch.float32, images, labels, shard_rows(ROWS, N, KEY))
        bias = "head.bias" if model == "cnn-tiny" else "bias"
        weights[bias][:] = 0
        weights[bias][:, 3] = 1e4  # all vote 3
        weights[bias][1, 2] = float("nan")
        weights[bias][4, 2] = float("inf")
        votes = ensemble_votes(model, FACTS, weights, CPU, torch.float32)(images)
        assert (votes == torch.tensor([2, 0, 0, 4])).all()
        with pytest.raises(UserError, match=r"accepted: uint8 \[B, \*\[1, 12, 12\]\]"):
            ensemble_votes(model, FACTS, weights, CPU, torch.float32)(images.float())


def test_chunks_are_the_same_whoever_trains_them():
    assert [list(c) for c in chunks(38)] == [[*range(16)], [*range(16, 32)], [*range(32, 38)]]


def tree(root, **teacher):
    recipe = {"model": "scatter-linear", "shards": 20, "copies": 1, "root": str(root)}
    return {"device": "cpu", "teacher": recipe | teacher, "privacy": {"epsilon": 1.0}}


def quiet(text):
    pass


def test_folder_cache_and_the_ledger_of_the_data_set(tmp_path):
    c = parse_config(tree(tmp_path))
    home = ensure_teacher(c, quiet)
    assert ensure_teacher(c, quiet).uuid == home.uuid
    assert {p.name for p in home.path.iterdir()} == {
        "teacher.json", "weights.safetensors", "shards.npz", "lock",
    }  # fmt: skip
    assert home.path.stat().st_mode & 0o777 == 0o700
    assert load_shards(home.path / "shards.npz").n == 20
    other = ensure_teacher(parse_config(tree(tmp_path, shards=30)), quiet)
    again = ensure_teacher(parse_config(tree(tmp_path, seed=1)), quiet)
    assert len({home.uuid, other.uuid, again.uuid}) == 3
    ((folder, owner),) = {h.ledger("record") for h in (home, other, again)}
    assert folder == tmp_path / "datasets/digits"
    assert owner not in (home.uuid, other.uuid, again.uuid)
    keys = [load_shards(h.path / "shards.npz").key for h in (home, again)]
    assert keys[0] != keys[1]
    (tmp_path / "datasets/digits/dataset.json").write_text(json.dumps({"uuid": "x", "name": "y"}))
    with pytest.raises(UserError, match="is another data set's"):
        read_folder(home.path).ledger("record")
    (tmp_path / "datasets/digits/dataset.json").unlink()
    with pytest.raises(UserError, match="no home of a data set's ledger"):
        read_folder(home.path).ledger("user")


def test_a_named_data_set_keeps_its_ledger_when_a_record_is_mended(tmp_path):
    c = parse_config(tree(tmp_path, dataset="patients") | {"data": {"name": "digits"}})
    assert ensure_teacher(c, quiet).ledger("record")[0] == tmp_path / "datasets/patients"
    other = parse_config(tree(tmp_path, dataset="others") | {"data": {"name": "digits"}})
    with pytest.raises(UserError, match=r"data\.dataset: others, but .* data set patients"):
        ensure_teacher(other, pytest.fail)


def test_one_key_gives_one_ensemble(tmp_path):
    c = parse_config(tree(tmp_path))
    data = load_data(c.data)
    for name in "ab":
        train_ensemble(c, data, tmp_path / name, quiet, key=KEY)
    one, two = (tmp_path / name / "weights.safetensors" for name in "ab")
    assert one.read_bytes() == two.read_bytes()


def test_votes_in_evaluation_and_check(tmp_path, capsys):
    (tmp_path / "c.yaml").write_text(json.dumps(tree(tmp_path / "teachers", shards=5)))
    assert main(["teacher", str(tmp_path / "c.yaml"), "--shards", "20"]) == 0
    assert "accuracy on holdout" in capsys.readouterr().out
    c = parse_config(tree(tmp_path / "teachers"))
    home = ensure_teacher(c, lambda text: pytest.fail("trained twice"))
    ask, rows = load_teacher(c, home), load_data(c.data).holdout
    votes = ask(rows.images)
    assert votes.dtype == torch.int64 and (votes.sum(1) == 20).all()
    figures = on_rows(rows, c.facts.class_names, ask, lambda x: as_logits(ask(x)).softmax(1))
    plurality = float((votes.argmax(1) == rows.labels).double().mean())
    assert figures["teacher"]["accuracy"] == plurality == home.facts["accuracy"]["holdout"]
    assert plurality > 0.85 and figures["student"]["agreement"] == 1
    torch.testing.assert_close(as_logits(votes).softmax(1), votes / 20, atol=1e-6, rtol=1e-5)
    assert main(["check-teacher", str(tmp_path / "c.yaml"), "--set", "teacher.shards=20"]) == 0
    out = capsys.readouterr().out
    assert "votes [256, 10]" in out and "the teacher fits" in out


def test_damaged_weights_are_told_in_one_line(tmp_path):
    c = parse_config(tree(tmp_path))
    home = ensure_teacher(c, quiet)
    (home.path / "weights.safetensors").write_bytes(b"nothing")
    with pytest.raises(UserError, match=r"weights\.safetensors: unreadable"):
        load_teacher(c, home)


def test_other_models_are_refused_by_name(tmp_path):
    with pytest.raises(
        UserError, match=r"teacher.model: resnet20 with teacher.shards 20; accepted"
    ):
        ensure_teacher(parse_config(tree(tmp_path, model="resnet20")), quiet)
    with pytest.raises(UserError, match=r"teacher.weights: w.pt with teacher.shards 20; an ens"):
        ensure_teacher(parse_config(tree(tmp_path, weights="w.pt")), quiet)


@pytest.mark.slow
def test_processes_share_the_chunks(tmp_path):
    """Two processes under torchrun write what one writes, but for key and UUID."""
    (tmp_path / "c.yaml").write_text(json.dumps(tree(tmp_path / "teachers", shards=70)))
    run = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
           "-m", "dpsd", "teacher", str(tmp_path / "c.yaml")]  # fmt: skip
    done = subprocess.run(run, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    c = parse_config(tree(tmp_path / "teachers", shards=70))
    home = ensure_teacher(c, lambda text: pytest.fail("trained twice"))
    key = load_shards(home.path / "shards.npz").key
    train_ensemble(c, load_data(c.data), tmp_path / "alone", quiet, key=key)
    one, two = (f / "weights.safetensors" for f in (home.path, tmp_path / "alone"))
    assert one.read_bytes() == two.read_bytes()
