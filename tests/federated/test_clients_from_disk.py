"""Clients whose common data set stays on disk get the rows that they get from memory."""

import torch
from picture_data import SIZE, both_ways, picture_folder

from dpsd.config import parse_config
from dpsd.federated.home import _of, client_rows


def test_clients_get_the_same_rows(tmp_path, monkeypatch):
    picture_folder(tmp_path / "images")
    data = {"name": "image_folder", "root": str(tmp_path / "images"), "classes": 2,
            "shape": [1, SIZE, SIZE], "dataset": "pictures"}  # fmt: skip
    dealt = []
    for name in ("memory", "disk"):
        config = parse_config({
            "data": data, "teacher": {"root": str(tmp_path / name)},
            "federated": {"clients": 2, "partition": "iid", "least_rows": 1},
            "privacy": {"route": "federated", "unit": "answer", "epsilon": 8.0, "answers": 40},
        })  # fmt: skip
        rows = both_ways(config.data, monkeypatch)[name == "disk"]
        mine = client_rows(config, rows)
        assert all(torch.equal(a, b) for a, b in zip(mine, client_rows(config, rows), strict=True))
        dealt.append([_of(rows, part).train for part in mine])
    for here, there in zip(*dealt, strict=True):
        assert len(here) == 18 and torch.equal(here.labels, there.labels)
        assert torch.equal(here.images, there.images[:])
