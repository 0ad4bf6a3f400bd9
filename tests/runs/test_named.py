"""Whether a student still names all classes."""

import shutil

import pytest
import torch
from products import copy_of, tiny_run
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from dpsd.cli.make import _warn_of_collapse
from dpsd.runs.named import named_classes


@pytest.fixture
def run(tmp_path_factory, tmp_path):
    return copy_of(tiny_run(tmp_path_factory), tmp_path / "run")


def biased(run, classes):
    """Let the student name these classes alone, each in reach."""
    path = run.release / "student.safetensors"
    with safe_open(path, "pt") as f:
        metadata = f.metadata()
    state = load_file(path)
    bias = next(k for k, v in reversed(state.items()) if v.shape == (10,))
    state[bias] = torch.full((10,), -1e6)
    state[bias][classes] = 0
    save_file(state, path, metadata)


def test_a_student_of_one_class_is_told_in_one_line(run, capsys):
    biased(run, [3])
    assert named_classes(run) == (1, 10)
    _warn_of_collapse(run)
    told = capsys.readouterr().out
    assert "names 1 of 10 classes on its own query images" in told and told.count("\n") == 1


def test_a_whole_student_is_not_warned_of(run, capsys, monkeypatch):
    for found in ((10, 10), None):
        monkeypatch.setattr("dpsd.runs.named.named_classes", lambda run, found=found: found)
        _warn_of_collapse(run)
    assert capsys.readouterr().out == ""


def test_too_few_images_tell_nothing(run):
    shutil.rmtree(run.bank)
    assert named_classes(run) is None
