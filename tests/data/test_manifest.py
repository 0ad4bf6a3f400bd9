"""The list that numbers the records of an image folder."""

import numpy as np
import pytest
import torch
from PIL import Image

from dpsd.cli import main
from dpsd.config import parse_config
from dpsd.data.load import load_data
from dpsd.errors import UserError


@pytest.fixture
def folder(tmp_path):
    for label in range(2):
        (tmp_path / "images" / f"class{label}").mkdir(parents=True)
        for i in range(10):
            pixels = np.full((8, 8), 100 * label + i, np.uint8)
            Image.fromarray(pixels).save(tmp_path / "images" / f"class{label}" / f"{i}.png")
    (tmp_path / "c.yaml").write_text(
        f"data: {{name: image_folder, root: {tmp_path}/images, shape: [1, 8, 8], classes: 2}}\n"
        "privacy: {epsilon: 1}\n"
    )
    return tmp_path


def read(folder, rows):
    tree = {"name": "image_folder", "root": str(folder / "images"), "shape": [1, 8, 8],
            "classes": 2, "rows": str(rows)}  # fmt: skip
    return load_data(parse_config({"data": tree, "privacy": {"epsilon": 1.0}}).data)


def manifest(folder, name="rows.txt"):
    return main(["manifest", str(folder / "c.yaml"), "--out", str(folder / name)])


def test_rows_follow_the_list_and_not_the_class(folder):
    assert manifest(folder) == 0
    names = (folder / "rows.txt").read_text().splitlines()[1:]
    data = read(folder, folder / "rows.txt")
    pixels = torch.cat([data.train.images, data.holdout.images])[:, 0, 0, 0].tolist()
    wanted = [100 * int(n[5]) + int(n.split("/")[1].removesuffix(".png")) for n in names]
    assert pixels == wanted and sorted(names) != names
    manifest(folder, "again.txt")
    assert (folder / "again.txt").read_text() != (folder / "rows.txt").read_text()


def test_a_replaced_record_moves_no_other_row(folder):
    """Also when its class changes, which sorting by name would make everybody feel."""
    manifest(folder)
    before = read(folder, folder / "rows.txt")
    (folder / "images/class0/3.png").rename(folder / "images/class1/new.png")
    text = (folder / "rows.txt").read_text().replace("class0/3.png", "class1/new.png")
    (folder / "rows.txt").write_text(text)
    after = read(folder, folder / "rows.txt")
    labels = [torch.cat([d.train.labels, d.holdout.labels]) for d in (before, after)]
    assert int((labels[0] != labels[1]).sum()) == 1


def test_a_list_is_never_written_over(folder, capsys):
    manifest(folder)
    assert manifest(folder) == 2
    assert "rows are numbered once and for all" in capsys.readouterr().err


def test_list_and_folder_must_agree(folder):
    manifest(folder)
    (folder / "images/class0/4.png").rename(folder / "images/class0/extra.png")
    with pytest.raises(UserError, match=r"lists .*4.png \(1 files\)"):
        read(folder, folder / "rows.txt")
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(folder / "images/class0/4.png")
    with pytest.raises(UserError, match=r"lacks .*extra.png \(1 files\); add new files at its end"):
        read(folder, folder / "rows.txt")
