"""Labelled pictures without a data set: which rows are taken from folders and archives."""

import numpy as np
import pytest
from PIL import Image

from dpsd.config import PublicFacts
from dpsd.config.sections import DataConfig
from dpsd.data.labelled import read_labelled
from dpsd.data.load import load_data
from dpsd.errors import UserError

FACTS = PublicFacts((1, 6, 5), 2, ("a", "b"))


def pictures(root, values):
    """A folder for each class; each picture has one grey value."""
    for name, greys in values.items():
        (root / name).mkdir(parents=True)
        for grey in greys:
            Image.fromarray(np.full((6, 5), grey, np.uint8)).save(root / name / f"{grey}.png")
    return root


def found(split):
    return sorted(zip(split.images[:][:, 0, 0, 0].tolist(), split.labels.tolist(), strict=True))


def test_a_folder_for_each_class_is_taken_whole_and_test_before_train(tmp_path):
    flat = pictures(tmp_path / "flat", {"a": [1, 2, 3], "b": [11]})
    assert found(read_labelled(flat, FACTS)) == [(1, 0), (2, 0), (3, 0), (11, 1)]
    pictures(tmp_path / "both" / "train", {"a": [1], "b": [2]})
    assert found(read_labelled(tmp_path / "both", FACTS)) == [(1, 0), (2, 1)]
    pictures(tmp_path / "both" / "test", {"a": [5], "b": [6]})
    assert found(read_labelled(tmp_path / "both", FACTS)) == [(5, 0), (6, 1)]


@pytest.mark.parametrize(
    "names",
    [("images", "labels"), ("x", "y"), ("test_images", "test_labels"), ("x_test", "y_test"),
     ("x_train", "y_train")],
)  # fmt: skip
def test_arrays_by_the_names_that_people_use(tmp_path, names):
    x = np.arange(4, dtype=np.uint8)[:, None, None] + np.zeros((4, 6, 5), np.uint8)
    np.savez(tmp_path / "a.npz", **dict(zip(names, (x, [0, 1, 0, 1]), strict=True)))
    assert found(read_labelled(tmp_path / "a.npz", FACTS)) == [(0, 0), (1, 1), (2, 0), (3, 1)]


def test_test_rows_come_before_training_rows(tmp_path):
    x = np.zeros((3, 6, 5), np.uint8)
    np.savez(tmp_path / "a.npz", x_train=x, y_train=[0, 1, 0], x_test=x[:1] + 9, y_test=[1])
    assert found(read_labelled(tmp_path / "a.npz", FACTS)) == [(9, 1)]
    config = DataConfig(name="npz", root=tmp_path / "a.npz", classes=2, shape=(1, 6, 5))
    assert len(load_data(config).test) == 1  # the same names make a data set


def test_what_is_no_labelled_picture_is_one_line(tmp_path):
    with pytest.raises(UserError, match="no such file; accepted: a folder"):
        read_labelled(tmp_path / "none", FACTS)
    with pytest.raises(UserError, match=r"data\.classes: 2, but .* has 1 class folders"):
        read_labelled(pictures(tmp_path / "one", {"a": [1]}), FACTS)
    x = np.zeros((3, 6, 5), np.uint8)
    np.savez(tmp_path / "a.npz", x_test=x, other=x)
    with pytest.raises(UserError, match="no array test_labels; found: x_test, other; accepted: im"):
        read_labelled(tmp_path / "a.npz", FACTS)
    np.savez(tmp_path / "b.npz", images=x[:, :4], labels=[0, 1, 0])
    with pytest.raises(UserError, match=r"data\.shape is"):
        read_labelled(tmp_path / "b.npz", FACTS)
    np.savez(tmp_path / "c.npz", x_test=x, y_test=[0, 1, 0])
    config = DataConfig(name="npz", root=tmp_path / "c.npz", classes=2, shape=(1, 6, 5))
    with pytest.raises(UserError, match=r"no array images; .*test rows alone: dpsd evaluate"):
        load_data(config)
