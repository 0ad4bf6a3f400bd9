"""WebDataset shards: written by the library, read at random."""

import gzip
import io
import sys

import numpy as np
import pytest
from picture_data import both_ways
from PIL import Image

from dpsd.cli import main
from dpsd.config.sections import DataConfig
from dpsd.data.identity import fingerprint
from dpsd.data.load import join_splits, load_data
from dpsd.errors import UserError

webdataset = pytest.importorskip("webdataset")


def sample(value, label, **more):
    buffer = io.BytesIO()
    Image.fromarray(np.full((8, 8), value, np.uint8)).save(buffer, "PNG")
    return {"__key__": f"s{value:03d}", "png": buffer.getvalue(), "cls": label} | more


def shard(path, samples):
    path.parent.mkdir(parents=True, exist_ok=True)
    with webdataset.TarWriter(str(path)) as writer:
        for one in samples:
            writer.write(one)


def shards(root):
    """Two training shards of ten samples and one of four test samples; the label is value % 2."""
    for i, name in enumerate(("train/a.tar", "train/b.tar")):
        shard(root / name, [sample(10 * i + j, j % 2, json={"n": j}) for j in range(10)])
    shard(root / "test/c.tar", [sample(100 + j, j % 2) for j in range(4)])
    return DataConfig(name="webdataset", root=root, classes=2, shape=(1, 8, 8))


def values(split):
    return split.images[:][:, 0, 0, 0].tolist()


def refused(config, match):
    with pytest.raises(UserError, match=match) as caught:
        load_data(config)
    assert "\n" not in str(caught.value)


def test_samples_in_memory_and_on_disk(tmp_path, monkeypatch):
    memory, disk = both_ways(shards(tmp_path), monkeypatch)
    for data in (memory, disk):
        whole = join_splits(data.train, data.holdout)
        assert sorted(values(whole)) == list(range(20)) != values(whole)
        assert [v % 2 for v in values(whole)] == whole.labels.tolist()
        assert (len(data.train), len(data.holdout)) == (18, 2)
        assert values(data.test) == [100, 101, 102, 103] and data.test.labels.tolist() == [0, 1] * 2
    assert values(memory.train) == values(disk.train)
    known = fingerprint(disk)
    shard(tmp_path / "train/b.tar", [sample(10 + j, j % 2) for j in range(10)])
    assert fingerprint(both_ways(shards(tmp_path), monkeypatch)[1]) != known


def test_names_tell_training_from_test(tmp_path):
    shard(tmp_path / "x-train-000.tar", [sample(i, 0) for i in range(5)])
    shard(tmp_path / "x-test-000.tar", [sample(9, 1)])
    config = DataConfig(name="webdataset", root=tmp_path, classes=2, shape=(1, 8, 8))
    data = load_data(config)
    assert (len(data.train), values(data.test)) == (4, [9])
    shard(tmp_path / "x-val-000.tar", [sample(7, 1)])
    refused(config, "x-val-000.tar has neither")
    for path in tmp_path.iterdir():
        path.rename(path.with_name(path.name.replace("-t", "-u")))
    assert load_data(config).test is None
    refused(config.model_copy(update={"root": tmp_path / "no"}), "data.root: .*no holds no tar")


def test_a_manifest_numbers_the_samples(tmp_path, monkeypatch, capsys):
    config = shards(tmp_path / "d")
    (tmp_path / "c.yaml").write_text(
        f"data: {{name: webdataset, root: {tmp_path}/d, shape: [1, 8, 8], classes: 2}}\n"
        "privacy: {epsilon: 1}\n"
    )
    out = tmp_path / "rows.txt"
    assert main(["manifest", str(tmp_path / "c.yaml"), "--out", str(out)]) == 0
    assert "20 records numbered" in capsys.readouterr().out
    listed = out.read_text().splitlines()[1:]
    _, disk = both_ways(config.model_copy(update={"rows": out}), monkeypatch)
    assert sorted(listed)[10] == "train/b.tar/s010"
    assert values(join_splits(disk.train, disk.holdout)) == [int(n[-3:]) for n in listed]
    out.write_text(out.read_text().replace("s010", "s999"))
    refused(config.model_copy(update={"rows": out}), r"lists .*b.tar/s999 \(1 files\)")


def test_bad_shards_are_one_line(tmp_path):
    config = shards(tmp_path)
    path = tmp_path / "train/b.tar"
    whole = path.read_bytes()
    path.write_bytes(gzip.compress(whole))
    refused(config, f"{path}: unreadable .*not compressed")
    path.write_bytes(whole[:700])
    refused(config, f"{path}: unreadable")
    path.write_bytes(b"")
    refused(config, f"{path}: unreadable")
    for one, match in (
        ({"__key__": "k", "png": b"x"}, "b.tar/k: no class .*member .cls"),
        ({"__key__": "k", "cls": "dog", "png": b"x"}, "b.tar/k: no class .*dog"),
        ({"__key__": "k", "cls": 1}, "b.tar/k: 0 images"),
        ({"__key__": "k", "cls": 1, "png": b"x", "jpg": b"x"}, "b.tar/k: 2 images"),
        (sample(3, 1, png=b"no image"), "b.tar/s003: not a readable image"),
        (sample(3, 2), "labels: 0 to 2; accepted: 0 to 1"),
    ):
        with webdataset.TarWriter(str(path), encoder=False) as writer:
            writer.write({k: str(v).encode() if k == "cls" else v for k, v in one.items()})
        refused(config, match)


def test_a_shard_that_goes_away_is_one_line(tmp_path, monkeypatch):
    _, disk = both_ways(shards(tmp_path), monkeypatch)
    (tmp_path / "train/b.tar").unlink()
    with pytest.raises(UserError, match=r"b.tar/s01\d: cannot be read"):
        disk.train.images[:]
    with pytest.raises(UserError, match=r"b.tar: cannot be read"):
        fingerprint(disk)


def test_a_missing_library_is_named(tmp_path, monkeypatch):
    config = shards(tmp_path)
    monkeypatch.setitem(sys.modules, "webdataset.tariterators", None)
    refused(config, r"data.name: webdataset needs the library .* pip install 'dpsd\[webdataset\]'")
