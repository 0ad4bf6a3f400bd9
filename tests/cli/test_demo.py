"""`dpsd demo`: the steps, in order, and where it keeps its ledger."""

from importlib.resources import files
from pathlib import Path

import pytest

from dpsd import cli
from dpsd.config import load_config

ROOT = Path(__file__).parents[2]


@pytest.fixture
def steps(monkeypatch):
    """The commands that the demo calls; none is run."""
    called = []
    real = cli.main

    def main(words):
        if words[0] == "demo":
            return real(words)
        called.append(words)
        return 1 if words[0] == "attack" and words[1] == "membership" else 0

    monkeypatch.setattr(cli, "main", main)
    return called


def test_the_demo_is_the_configuration_of_the_repository():
    shipped = files("dpsd.cli") / "demo.yaml"
    assert load_config(str(shipped)) == load_config(ROOT / "configs" / "attacks_digits.yaml")


def test_the_demo_walks_the_whole_way(steps, tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("DPSD_HOME")
    out = tmp_path / "demo"
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
