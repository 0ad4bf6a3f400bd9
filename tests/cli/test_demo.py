"""`dpsd demo`: the steps, in order, and where it keeps its ledger."""

import os
import subprocess
from importlib.resources import files
from pathlib import Path

import pytest

from dpsd import cli
from dpsd.attacks.inversion.search import BUDGETS
from dpsd.config import load_config

ROOT = Path(__file__).parents[2]


class Steps(list):
    failing = None


@pytest.fixture
def steps(monkeypatch):
    """The commands that the demo calls; none is run, and one that is in `failing` fails."""
    called = Steps()
    real = cli.main

    def main(words):
        if words[0] == "demo":
            return real(words)
        called.append(words)
        return int(words[:2] == called.failing)

    monkeypatch.setattr(cli, "main", main)
    return called


def test_the_demo_is_the_configuration_of_the_repository_but_smaller():
    shipped = files("dpsd.cli") / "demo.yaml"
    small = ["teacher.model=cnn-tiny", "student.model=cnn-tiny", "privacy.answers=30000"]
    assert load_config(str(shipped)) == load_config(ROOT / "configs/attacks_digits.yaml", small)


def test_the_demo_stops_where_a_step_fails(steps, tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("DPSD_HOME")
    out = tmp_path / "demo"
    steps.failing = ["attack", "membership"]
    assert cli.main(["demo", "--out", str(out), "--quiet", "--set", "loop.rounds=5"]) == 1
    assert [words[0] for words in steps] == ["transcribe", "evaluate", "attack", "attack"]
    transcribe = steps[0]
    assert f"--set=teacher.root={tmp_path / 'home'}" in transcribe
    assert "--set=loop.rounds=5" in transcribe and "--data-is-public" in transcribe
    assert all(words[-1] == "--quiet" for words in steps)
    parsed = [cli.make_parser().parse_args(words) for words in steps]
    assert parsed[0].set == [f"teacher.root={tmp_path / 'home'}", "loop.rounds=5"]
    assert "== " not in capsys.readouterr().out  # quiet


def test_the_demo_takes_a_home_that_is_named_and_no_folder_that_is_there(steps, tmp_path, capsys):
    cli.main(["demo", "--out", str(tmp_path / "demo")])
    assert not any("teacher.root" in word for word in steps[0])
    assert "== transcribe" in capsys.readouterr().out
    steps.clear()
    assert cli.main(["demo", "--out", str(tmp_path)]) == 2 and not steps
    assert "is there already" in capsys.readouterr().err


def test_the_demo_ends_with_the_attacks_a_picture_and_the_report(steps, tmp_path, capsys):
    out = tmp_path / "demo"
    picture = out / "private/attacks/inversion/reconstructions-gmi.png"
    real = steps.append

    def append(words):  # the demo has seen by now that the folder is new
        picture.parent.mkdir(parents=True, exist_ok=True)
        picture.touch()
        real(words)

    steps.append = append
    assert cli.main(["demo", "--out", str(out)]) == 0
    assert [words[:2] for words in steps[2:]] == [
        ["attack", "inversion"], ["attack", "membership"], ["report", str(out)],
    ]  # fmt: skip
    assert all("--fast" in words for words in steps[2:4])
    said = capsys.readouterr().out
    assert str(picture) in said and "release/ may be given away" in said
    assert "gmi" in BUDGETS["fast"].attacks  # so that the picture is there


def test_the_script_installs_and_calls_the_command(tmp_path):
    """With stubs in place of the installed programs."""
    lines = called_by_the_script(tmp_path, {})
    assert "pip install" in lines[0] and lines[1:] == ["demo --set x=1"]


def test_the_script_takes_torch_from_the_index_that_is_named(tmp_path):
    index = "https://download.pytorch.org/whl/cpu"
    lines = called_by_the_script(tmp_path, {"DPSD_TORCH_INDEX": index})
    assert lines[0].endswith(f"--index-url {index} torch torchvision")
    assert "-e ." in lines[1] and index not in lines[1] and lines[2:] == ["demo --set x=1"]


def called_by_the_script(tmp_path, env):
    """What `scripts/demo --set x=1` runs, a line each."""
    log, bin = tmp_path / "log", tmp_path / "venv/bin"
    bin.mkdir(parents=True)
    for name in ("dpsd", "python"):
        (bin / name).write_text(f'#!/bin/sh\necho "$@" >> {log}\n')
        (bin / name).chmod(0o755)
    env = os.environ | {"DPSD_VENV": str(tmp_path / "venv")} | env
    script = [ROOT / "scripts/demo", "--set", "x=1"]
    done = subprocess.run(script, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return log.read_text().splitlines()
