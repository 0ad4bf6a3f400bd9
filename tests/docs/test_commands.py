"""The commands of the documents: all are parsed; those of README and quickstart are run.

They are run in order, in one folder, as they stand. A command on a configuration gets settings that
make it small. Only `scripts/demo`, `scripts/test` and `pip install` are not run, since they install
for minutes: bash and the parser read them.
"""

import shlex
import subprocess
import sys

import pytest
import torch
from pages import PAGES, ROOT, blocks, commands
from PIL import Image
from torchvision.models import resnet18

from dpsd.cli import main, make_parser

QUICKSTART = ROOT / "docs" / "quickstart-own-model.md"
INSTALLS = ("scripts/demo", "scripts/test", "scripts/federation_demo")
SMALL = ["privacy.answers=60", "loop.rounds=2", "student.refit_epochs=1", "device=cpu"]


def shell_blocks(page):
    return [content for language, content in blocks(page.read_text()) if language in ("", "bash")]


def all_commands(page):
    return [c for block in shell_blocks(page) for c in commands(block)]


@pytest.mark.parametrize("page", PAGES, ids=[str(p.relative_to(ROOT)) for p in PAGES])
def test_every_command_is_one_that_the_parser_takes(page):
    for command in all_commands(page):
        words = shlex.split(command.replace("BEFORE", "a").replace("...", "x.yaml"))
        while words and "=" in words[0] and not words[0].startswith("-"):
            words.pop(0)  # variables before the command
        if words and words[0] == "dpsd":
            try:
                assert callable(make_parser().parse_args(words[1:]).run), command
            except SystemExit as e:
                pytest.fail(f"{command}: exit {e.code}")


def test_what_installs_is_there_and_read_by_bash():
    named = {c.split()[0] for p in PAGES for c in all_commands(p) if c.startswith("scripts/")}
    assert set(INSTALLS[:2]) <= named
    for name in named:
        path = ROOT / name
        assert path.stat().st_mode & 0o111, name
        if path.read_text().startswith("#!/usr/bin/env bash"):
            subprocess.run(["bash", "-n", path], check=True)


def small(words):
    """The same command on little data: settings are added where it takes a configuration."""
    if words[0] in ("transcribe", "check-teacher", "plan", "teacher") and words[1] != "--help":
        return [*words, "--set", *SMALL]
    return words


def run(words, capsys):
    """What a command prints; it must succeed."""
    code = main(small(words))
    shown = capsys.readouterr()
    assert code == 0, (words, shown.out, shown.err)
    return shown.out


class _Answers:
    """A terminal at which somebody gives these answers."""

    def __init__(self, *lines):
        self.lines = list(lines)

    def isatty(self):
        return True

    def readline(self):
        return self.lines.pop(0) + "\n"


@pytest.mark.slow
def test_the_four_commands_of_the_readme(tmp_path, monkeypatch, capsys):
    page = ROOT / "README.md"
    mine = [shlex.split(c)[1:] for c in all_commands(page) if c.startswith("dpsd ")]
    assert [words[0] for words in mine] == ["init", "plan", "transcribe", "verify"]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("dpsd.cli.start.at_terminal", lambda: True)
    monkeypatch.setattr(sys, "stdin", _Answers("digits", "", "", "", ""))
    said = [run(words, capsys) for words in mine]
    assert "route inherited, unit record" in said[0]
    assert "Route: inherited. Unit of privacy: one record." in said[1]
    assert "for one record" in said[2] and "\nverified\n" in said[3]


@pytest.fixture
def clinic(tmp_path, monkeypatch):
    """The folder of the quickstart: a ResNet-18 and a few grey pictures of three classes."""
    torch.manual_seed(0)
    model = resnet18(num_classes=3).eval()
    with torch.no_grad():  # untrained, but it must name more than one class
        model.fc.weight *= 100
        shades = torch.linspace(0, 1, 8).repeat_interleave(8)[:, None, None, None]
        images = (shades * torch.rand(64, 1, 64, 64)).expand(-1, 3, -1, -1)
        model.fc.bias -= model(images).median(0).values
    torch.save(model.state_dict(), tmp_path / "xray_resnet18.pt")
    for split, n in (("train", 20), ("test", 4)):
        for kind in range(3):
            folder = tmp_path / "xrays" / split / f"class{kind}"
            folder.mkdir(parents=True)
            for i in range(n):
                pixels = torch.randint(256, (64, 64), dtype=torch.uint8).numpy()
                Image.fromarray(pixels).save(folder / f"{i}.png")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.slow
def test_the_quickstart_from_checkpoint_to_release(clinic, monkeypatch, capsys):
    text = QUICKSTART.read_text()
    done = []
    for language, content in blocks(text):
        if language == "yaml":
            assert (clinic / "xrays.yaml").read_text() == content  # what init wrote
        if language != "bash":
            continue
        for command in commands(content):
            words = shlex.split(command)[1:]
            done.append((words[0], run(words, capsys)))
    names = [name for name, _ in done]
    assert names[:4] == ["init", "check-teacher", "plan", "transcribe"] and "verify" in names
    said = dict(done)
    # Sentences that the page shows are those that the commands print, figures aside.
    for name, sentence in (
        ("init", "xrays.yaml: route single, unit answer"),
        ("init", "Will not protect: a record, a user or a client."),
        ("plan", "Route: single. Unit of privacy: one answer."),
        ("transcribe", "epsilon"),
        ("verify", "verified"),
        ("ledger", "composed epsilon"),
    ):
        assert sentence in said[name] and sentence in text, (name, sentence)
    assert (clinic / "runs/xrays/release/student.safetensors").is_file()
    assert (clinic / "runs/xrays/student.pt2").is_file()
