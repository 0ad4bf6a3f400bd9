import json
import re

import numpy as np
import pytest
import torch

from dpsd.cli import main
from dpsd.config import PublicFacts
from dpsd.config.sections import Normalize
from dpsd.models.networks import build_model
from dpsd.teachers.check import check_text, input_text

RGB = PublicFacts((3, 64, 64), 2, ("a", "b"))
GREY = PublicFacts((1, 8, 8), 2, ("a", "b"))


def test_assumed_input_in_words():
    assert input_text(None, RGB, 3) == "pixels 0 to 1, not normalised, 3 x 64 x 64"
    text = input_text(Normalize(mean=(0.5,), std=(0.25,)), GREY, 3)
    assert "mean [0.5] and std [0.25], 1 x 8 x 8, grey repeated to 3 channels" in text


def test_verdict_promises_no_accuracy():
    input_row, good, bad = ({"check": c, "ok": ok, "message": "m"}
                            for c, ok in (("input", None), ("a", True), ("b", False)))  # fmt: skip
    text = check_text([input_row, good])
    assert "fits; whether it is right on your images was not measured" in text
    assert "1 of 2 checks failed" in check_text([input_row, good, bad])


class Linear(torch.nn.Module):
    """Two classes by the mean pixel of an image."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        z = 8 * (x.flatten(1).mean(1, keepdim=True) - 0.3)
        return torch.cat([z, -z], 1)


@pytest.fixture
def own(tmp_path, monkeypatch):
    """Arguments of a configuration with an own teacher on grey 8 x 8 images."""
    monkeypatch.chdir(tmp_path)
    torch.jit.script(Linear()).save("own.pt")
    tree = {"device": "cpu", "data": {"name": "none", "shape": [1, 8, 8], "classes": 2},
            "teacher": {"weights": "own.pt"}, "privacy": {"epsilon": 1}}  # fmt: skip
    (tmp_path / "c.yaml").write_text(json.dumps(tree))
    return ["check-teacher", "c.yaml"]


def test_check_says_what_it_assumes(own, capsys):
    args = ["--set", "teacher.normalize={mean: [0.1], std: [2]}", "--json"]
    assert main([*own, *args]) == 0
    first, *others = json.loads(capsys.readouterr().out)["checks"]
    assert (first["check"], first["ok"]) == ("input", None)
    assert first["message"].endswith("mean [0.1] and std [2.0], 1 x 8 x 8")
    assert all(row["ok"] for row in others)


def test_check_says_what_was_unwrapped(own, capsys):
    state = build_model("cnn-tiny", GREY.shape, GREY.classes).state_dict()
    torch.save({"model": {f"module.{k}": v for k, v in state.items()}}, "wrapped.pt")
    main([*own, "--set", "teacher.model=cnn-tiny", "teacher.weights=wrapped.pt"])
    lines = capsys.readouterr().out.splitlines()
    assert ["weights", "key 'model', prefix 'module.' removed"] in [
        line.split(maxsplit=1) for line in lines
    ]


def test_a_forgotten_normalisation_shows_on_labelled_pictures(own, capsys):
    greys = np.array([10, 40, 60, 200], np.uint8)
    images = np.broadcast_to(greys[:, None, None, None], (4, 1, 8, 8))
    np.savez("rows.npz", images=images, labels=np.array([1, 1, 0, 0]))
    for option, share in (([], "75.00 %"), (["teacher.normalize={mean: [-0.1], std: [1]}"], "100")):
        assert main([*own, "--rows", "rows.npz", *(["--set", *option] if option else [])]) == 0
        out = capsys.readouterr().out
        assert re.search(rf"^accuracy +{share}.* of the 4 pictures in rows\.npz", out, re.MULTILINE)
        assert out.endswith("the teacher fits\n")
    assert main([*own, "--rows", "none.npz"]) == 2
    assert "--rows: none.npz: no such file" in capsys.readouterr().err


def test_relative_paths_start_at_the_working_folder(own, tmp_path, monkeypatch, capsys):
    (tmp_path / "configs").mkdir()
    (tmp_path / "c.yaml").rename("configs/c.yaml")
    assert main([own[0], "configs/c.yaml"]) == 0
    monkeypatch.chdir("configs")
    assert main(own) == 2
    assert f"teacher.weights: no file {tmp_path}/configs/own.pt" in capsys.readouterr().err
