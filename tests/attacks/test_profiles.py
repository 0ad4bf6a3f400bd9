"""Split files: private and public classes stay apart, rows keep their numbers."""

import numpy as np
import pytest
import torch

from dpsd.config import load_config, parse_config, public_facts
from dpsd.config.sections import DataConfig
from dpsd.config.splits import named_splits
from dpsd.data.load import load_data, load_public_classes
from dpsd.data.sources import read_digits
from dpsd.errors import UserError

OWN = {"private": [3, 1], "public": [0], "train": [[0, 30]], "holdout": [[30, 50]]}


def npz(folder, images, labels):
    np.savez(folder / "own.npz", images=images, labels=labels)
    return folder / "own.npz"


def own_config(path, **changes):
    return DataConfig(
        name="npz", root=path, shape=(1, 8, 8), classes=4, split=OWN | changes
    )  # fmt: skip


@pytest.fixture
def rows():
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (60, 8, 8), dtype=np.uint8), np.arange(60) % 4


def test_shipped_splits_are_half_private_half_public():
    for name, split in named_splits().items():
        classes = 40 if name == "att_faces" else 10
        assert sorted(split.private + split.public) == list(range(classes))
        assert len(split.private) == classes // 2


def test_digits_rows_are_those_of_the_source():
    data = load_data(DataConfig(split="digits"))
    (x, y), (test_x, test_y) = read_digits()
    assert public_facts(DataConfig(split="digits")).class_names == ("5", "6", "7", "8", "9")
    wanted = [(x[:950], y[:950]), (x[950:], y[950:]), (test_x, test_y)]
    for part, (images, labels) in zip((data.train, data.holdout, data.test), wanted, strict=True):
        assert np.array_equal(part.images.numpy(), images[labels >= 5])
        assert np.array_equal(part.labels.numpy(), labels[labels >= 5] - 5)
    public = load_public_classes(DataConfig(split="digits"))
    assert np.array_equal(public.images.numpy(), x[:950][y[:950] < 5])


def test_faces_are_seven_and_three_of_twenty_people(dpsd_data):
    config = DataConfig(name="att_faces", root=dpsd_data, shape=(1, 56, 46), split="att_faces")
    data = load_data(config)
    assert data.train.labels.bincount().tolist() == [7] * 20
    assert data.holdout.labels.bincount().tolist() == [3] * 20
    assert data.test is None and len(load_public_classes(config)) == 140


def test_own_split_renumbers_classes_in_its_order(tmp_path, rows):
    config = own_config(npz(tmp_path, *rows))
    data = load_data(config)
    source = rows[1][:30]
    assert data.train.labels.tolist() == [0 if c == 3 else 1 for c in source if c in (1, 3)]
    assert (len(data.holdout), data.test, public_facts(config).classes) == (10, None, 2)


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"public": [0, 1]}, "class 1 is private too"),
        ({"private": [3]}, "private: [3]"),
        ({"holdout": [[29, 40]]}, "row 29 is in two"),
        ({"train": [[5, 5]]}, "[5, 5]"),
        ({"holdout": []}, "at least one range"),
        ({"publik": [1]}, "publik"),
    ],
)
def test_splits_refused(changes, part):
    with pytest.raises(UserError) as caught:
        parse_config({"data": {"name": "npz", "shape": [1, 8, 8], "classes": 4,
                               "split": OWN | changes}})  # fmt: skip
    assert part in str(caught.value) and "\n" not in str(caught.value)


def test_unknown_name_lists_the_known_ones():
    with pytest.raises(UserError, match=r"data\.split: 'mnits'.*att_faces, digits"):
        load_config(None, ["data.split=mnits"])


def test_class_and_row_beyond_the_source_are_refused(tmp_path, rows):
    path = npz(tmp_path, *rows)
    with pytest.raises(UserError, match=r"data\.split\.private: class 7; accepted: 0 to 3"):
        load_data(own_config(path, private=[3, 7]))
    with pytest.raises(UserError, match="rows up to 99, but there are 60"):
        load_data(own_config(path, holdout=[[30, 99]]))


def test_an_image_in_both_parts_is_refused(tmp_path, rows):
    images, labels = rows
    images[41] = images[4]  # 41 is of private class 1 and held out, 4 of public class 0
    config = own_config(npz(tmp_path, images, labels))
    load_data(config)
    with pytest.raises(UserError, match="1 of 8 public images are private too"):
        load_public_classes(config)


def test_split_is_part_of_the_released_facts():
    config = parse_config({"data": {"split": "digits"}, "privacy": {"epsilon": 1}})
    again = parse_config(config.model_dump(mode="json"))
    assert again == config and public_facts(again.data).classes == 5
    assert torch.equal(load_data(again.data).train.labels, load_data(config.data).train.labels)
