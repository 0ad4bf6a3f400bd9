"""Rows that stay on disk: the same rows as in memory, read ahead, and one line where they fail."""

import os
import threading

import numpy as np
import pytest
import torch
from picture_data import both_ways, picture_folder, stay_on_disk

from dpsd.cli import main
from dpsd.config import parse_config
from dpsd.data import identity, rows
from dpsd.data.identity import dataset_fingerprint, fingerprint, rows_fingerprint
from dpsd.data.load import join_splits, load_data, load_public_classes, where_rows_lie
from dpsd.data.rows import DiskRows, ahead, in_memory, join, pick
from dpsd.errors import UserError


class Counted:
    """Images whose pixels are their number; counts what was read."""

    shape = (1, 2, 2)

    def __init__(self, broken=None):
        self.reads, self.broken, self._lock = [], broken, threading.Lock()

    def read(self, number):
        with self._lock:
            self.reads.append(number)
        if number == self.broken:
            raise UserError(f"image {number} is gone")
        return np.full(self.shape, number, np.uint8)

    def mark(self, number):
        return b"%d\n" % number


def numbered(n=200, **more):
    return DiskRows(Counted(**more), torch.arange(n))


def test_the_same_rows_as_in_memory(tmp_path, monkeypatch):
    memory, disk = both_ways(picture_folder(tmp_path, tests=3), monkeypatch)
    for part in ("train", "holdout", "test"):
        here, there = getattr(memory, part), getattr(disk, part)
        assert isinstance(here.images, torch.Tensor) and isinstance(there.images, DiskRows)
        assert there.images.shape == here.images.shape and len(there) == len(here)
        assert torch.equal(here.images, there.images[:]) and torch.equal(here.labels, there.labels)
    assert where_rows_lie(memory) is None
    assert where_rows_lie(disk).startswith("46 private images take 0.0 GiB once decoded")


def test_index_and_split():
    images = numbered(50)
    mask = torch.arange(50) % 7 == 0
    for index in (
        slice(3, 9),
        torch.tensor([5, 1, 1, 40]),
        mask,
        torch.tensor([], dtype=torch.long),
    ):
        wanted = torch.arange(50)[index]
        assert images[index].shape == (len(wanted), 1, 2, 2)
        assert images[index][:, 0, 0, 0].tolist() == wanted.tolist()
    parts = list(images.split(20))
    assert [len(part) for part in parts] == [20, 20, 10]
    assert torch.cat(parts)[:, 0, 1, 1].tolist() == list(range(50))
    picked = pick(pick(images, mask), torch.tensor([2, 0]))
    assert picked[:][:, 0, 0, 0].tolist() == [14, 0]
    assert join([picked, pick(images, slice(0, 1))])[:][:, 0, 0, 0].tolist() == [14, 0, 0]


def test_parts_of_several_sources_are_joined():
    tensor = torch.full((2, 1, 2, 2), 9, dtype=torch.uint8)
    parts = [pick(numbered(9), torch.tensor([7, 3])), tensor, numbered(2)]
    joined = join(parts)
    assert isinstance(joined, DiskRows) and joined.shape == (6, 1, 2, 2)
    assert joined[:][:, 0, 1, 0].tolist() == [7, 3, 9, 9, 0, 1]
    marks = [joined.source.mark(n) for n in joined.numbers.tolist()]
    assert marks == [b"7\n", b"3\n", b"\x09" * 4, b"\x09" * 4, b"0\n", b"1\n"]
    assert torch.equal(join([tensor, tensor]), tensor.repeat(2, 1, 1, 1))


def test_batches_come_in_order_and_three_at_most_are_in_memory():
    images, order = numbered(200), torch.randperm(200).split(10)
    batches = ahead(images, order)
    for i in range(20):
        wanted, found = next(batches)
        assert found[:, 0, 0, 0].tolist() == wanted.tolist() == order[i].tolist()
        assert len(images.source.reads) <= 10 * (i + 3)
    assert next(batches, None) is None and sorted(images.source.reads) == list(range(200))


def test_whoever_stops_early_reads_no_more():
    images = numbered(200)
    batches = ahead(images, torch.arange(200).split(10))
    next(batches)
    batches.close()
    assert len(images.source.reads) <= 30
    assert not any(t.name.startswith("decode") for t in threading.enumerate())


def test_a_broken_image_fails_in_its_own_batch():
    batches = ahead(numbered(60, broken=25), torch.arange(60).split(10))
    assert len([next(batches) for _ in range(2)]) == 2
    with pytest.raises(UserError, match="image 25 is gone"):
        next(batches)


def test_what_must_be_in_memory_is_refused_above_the_bound(monkeypatch):
    tensor = torch.zeros(5, 1, 2, 2, dtype=torch.uint8)
    assert in_memory(tensor, "judge") is tensor
    monkeypatch.setattr(rows, "IN_MEMORY_BYTES", 40)
    assert in_memory(numbered(10), "judge")[9].unique().tolist() == [9]
    with pytest.raises(UserError, match=r"^data: 11 images .* stay on disk, and judge J2 needs"):
        in_memory(numbered(11), "judge J2")


def test_names_of_any_bytes_come_back():
    from dpsd.data.folders import Names

    wanted = ["a.png", "", "käse/\udcff.jpg", "b"]
    names = Names.packed(wanted)
    assert list(names) == wanted and len(names) == 4 and names[2] == wanted[2]


def test_a_manifest_orders_rows_on_disk(tmp_path, monkeypatch):
    config = picture_folder(tmp_path / "images")
    (tmp_path / "c.yaml").write_text(
        f"data: {{name: image_folder, root: {tmp_path}/images, shape: [1, 20, 20], classes: 2}}\n"
        "privacy: {epsilon: 1}\n"
    )
    assert main(["manifest", str(tmp_path / "c.yaml"), "--out", str(tmp_path / "rows.txt")]) == 0
    listed = config.model_copy(update={"rows": tmp_path / "rows.txt"})
    memory, disk = both_ways(listed, monkeypatch)
    assert torch.equal(memory.train.images, disk.train.images[:])
    names = (tmp_path / "rows.txt").read_text().splitlines()[1:]
    labels = join_splits(disk.train, disk.holdout).labels
    assert labels.tolist() == [int(name[5]) for name in names]


def test_files_are_known_by_name_size_and_time_without_being_read(tmp_path, monkeypatch):
    memory, disk = both_ways(picture_folder(tmp_path), monkeypatch)
    assert dataset_fingerprint(memory) == dataset_fingerprint(disk)
    assert rows_fingerprint(memory) == rows_fingerprint(disk, read=True)
    known = fingerprint(disk)
    with monkeypatch.context() as patch:
        patch.setattr("dpsd.data.folders.decode", lambda *a: pytest.fail("an image was read"))
        assert fingerprint(disk) == known != fingerprint(memory)
    file = tmp_path / "train" / disk.train.images.source.names[3].removeprefix("train/")
    os.utime(file, ns=(0, 0))
    changed = {fingerprint(disk), rows_fingerprint(disk)}
    assert known not in changed
    file.unlink()
    with pytest.raises(UserError, match=rf"^{file}: cannot be read"):
        rows_fingerprint(disk)


def test_an_older_ledger_named_by_content_is_found(tmp_path, monkeypatch):
    config = picture_folder(tmp_path / "images")
    memory, disk = both_ways(config, monkeypatch)
    tree = {"data": config.model_dump() | {"dataset": "mine"}, "privacy": {"epsilon": 1.0},
            "teacher": {"root": str(tmp_path / "root")}}  # fmt: skip
    whole = parse_config(tree)
    with monkeypatch.context() as patch:  # no older ledger: nothing is read
        patch.setattr("dpsd.data.folders.decode", lambda *a: pytest.fail("an image was read"))
        identity.dataset_home(whole, disk, "a test")
    older = tmp_path / "root" / "datasets" / dataset_fingerprint(memory)
    older.mkdir()
    with pytest.raises(UserError, match="an older version entered releases"):
        identity.dataset_home(whole, disk, "a test")


def test_public_classes_from_disk(tmp_path, monkeypatch):
    split = {"private": [0, 1], "public": [2, 3], "train": [[0, 50]], "holdout": [[50, 80]]}
    config = picture_folder(tmp_path, classes=4).model_copy()
    config = parse_config({"data": config.model_dump() | {"split": split},
                           "privacy": {"epsilon": 1.0}}).data  # fmt: skip
    memory, disk = both_ways(config, monkeypatch)
    assert torch.equal(memory.holdout.images, disk.holdout.images[:])
    known = load_public_classes(config)
    stay_on_disk(monkeypatch)
    assert torch.equal(known.images, load_public_classes(config).images[:])
    twin = sorted((tmp_path / "train" / "class2").iterdir())
    for path in twin:  # every public image of a class is a private one too
        path.write_bytes((tmp_path / "train" / "class0" / path.name).read_bytes())
    with pytest.raises(UserError, match="public images are private too"):
        load_public_classes(config)


def test_an_image_that_breaks_during_training_is_one_line(tmp_path, monkeypatch, capsys):
    config = picture_folder(tmp_path / "images")
    (tmp_path / "c.yaml").write_text(
        f"data: {{name: image_folder, root: {tmp_path}/images, shape: [1, 20, 20], classes: 2}}\n"
        f"teacher: {{model: cnn-tiny, epochs: 1, batch_size: 8, root: {tmp_path}/root}}\n"
        "device: cpu\nprivacy: {epsilon: 1}\n"
    )
    stay_on_disk(monkeypatch)
    bad = config.root / "train" / "class1" / "7.png"
    bad.write_bytes(bad.read_bytes()[:80])
    assert main(["teacher", str(tmp_path / "c.yaml")]) == 2
    said = capsys.readouterr()
    assert "40 private images take" in said.out + said.err
    assert said.err.strip().splitlines()[-1].count(f"{bad}: not a readable image") == 1
    bad.unlink()
    load_data(config)  # the folder as it is now has no such image


def test_a_folder_without_images_is_one_line(tmp_path, monkeypatch):
    config = picture_folder(tmp_path)
    for path in (tmp_path / "train" / "class0").iterdir():
        path.unlink()
    stay_on_disk(monkeypatch)
    with pytest.raises(UserError, match=r"class0: no images; accepted"):
        load_data(config)
