"""How many threads a process computes with, and what becomes of memory that it frees."""

import json
import platform
import subprocess
import sys

import pytest
import torch

import dpsd
from dpsd.cli import main
from dpsd.config import load_config
from dpsd.device import use_threads
from dpsd.errors import UserError
from dpsd.runs.begin import create_run, resume_run


@pytest.fixture(autouse=True)
def restored():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_threads_are_set_or_left_as_they_are(monkeypatch):
    assert "threads: 2 on" in use_threads(2) and torch.get_num_threads() == 2
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert "OMP_NUM_THREADS" in use_threads(None) and torch.get_num_threads() == 2
    monkeypatch.delenv("OMP_NUM_THREADS")
    assert "all" in use_threads(None)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc can keep what is freed")
def test_freed_memory_is_used_again():
    blocks = """
import resource, torch
from dpsd.device import use_threads
def faults(): return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
def of_ten_blocks():
    before = faults()
    for _ in range(10): torch.ones(2**24)  # 64 MiB, freed at once
    return faults() - before
given_back = of_ten_blocks()
use_threads(1)
of_ten_blocks()  # the heap grows first
print(given_back, of_ten_blocks())
"""
    run = subprocess.run([sys.executable, "-c", blocks], capture_output=True, text=True, check=True)
    given_back, kept = map(int, run.stdout.split())
    assert kept < given_back / 10 or given_back < 1000  # huge pages leave few faults to save


@pytest.mark.parametrize("threads", [0, -1, 1.5])
def test_other_numbers_are_refused(threads):
    with pytest.raises(UserError, match="threads: "):
        load_config(None, ["privacy.epsilon=1", f"threads={threads}"])


def test_commands_compute_with_the_configured_threads(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "c.yaml").write_text(
        "{device: cpu, threads: 2, teacher: {model: cnn-small, epochs: 1}, loop: {rounds: 1}, "
        "student: {refit_epochs: 0}, privacy: {epsilon: 1, answers: 20}}"
    )
    assert main(["transcribe", "c.yaml", "--out", "run", "--no-evaluate"]) == 0
    assert "threads: 2 on" in capsys.readouterr().out
    environment = json.loads((tmp_path / "run/release/env.json").read_text())
    assert environment["threads"] == 2
    torch.set_num_threads(1)
    assert main(["evaluate", "run", "--json"]) == 0
    assert "threads" not in capsys.readouterr().out and torch.get_num_threads() == 2
    torch.set_num_threads(1)
    assert main(["plan", "c.yaml", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["estimate"]["threads"] == 2
    lines = []
    with pytest.raises(UserError, match="exists"):
        dpsd.transcribe("c.yaml", out="run", say=lines.append)
    assert lines[0].startswith("threads: 2 on")


def test_a_run_may_go_on_with_other_threads_and_one_of_before_has_no_such_key(tmp_path):
    config = load_config(None, ["privacy.epsilon=1"])
    create_run(tmp_path / "run", config, "t", tmp_path, data_is_public=False)
    facts = json.loads((tmp_path / "run/private/run.json").read_text())
    del facts["config"]["threads"]
    (tmp_path / "run/private/run.json").write_text(json.dumps(facts))
    assert resume_run(tmp_path / "run", config).config.threads is None
    other = load_config(None, ["privacy.epsilon=1", "threads=1"])
    assert resume_run(tmp_path / "run", other).config.threads == 1
    assert "threads: 1" in (tmp_path / "run/release/config.yaml").read_text()
    with pytest.raises(UserError, match="seed"):
        resume_run(tmp_path / "run", load_config(None, ["privacy.epsilon=1", "seed=3"]))
