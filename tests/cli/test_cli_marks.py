"""`dpsd watermark` and `dpsd claim` on a tiny run, through the command line."""

import json
import re
import stat

import numpy as np
import pytest
import torch
from products import contents, copy_of, tiny_run

from dpsd.cli import main
from dpsd.config import load_config
from dpsd.defences import AccountMarks
from dpsd.hardening import claims, make
from dpsd.hardening.marks import open_mark
from dpsd.hardening.statistics import least_p_value
from dpsd.hardening.suspects import Suspect
from dpsd.models.networks import build_model
from dpsd.runs.folder import write_weights
from dpsd.runs.release import load_student


@pytest.fixture(scope="module")
def marked(tmp_path_factory):
    """A run with a trigger, a cosine mark, account marks and a fingerprint."""
    run = copy_of(tiny_run(tmp_path_factory), tmp_path_factory.mktemp("marks") / "run")
    before = contents(run.release)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(make, "POINTS", 40)
        for kind, extra in (
            ("trigger", ["--set", "images=60", "--set", "steps=3"]),
            ("cosine", ["--set", "amplitude=0.2"]), ("fingerprint", []),
            ("account_marks", ["--set", "share=0.5", "--name", "dawn"]),
        ):  # fmt: skip
            assert main(["watermark", str(run.path), "--mark", kind, *extra]) == 0
    assert contents(run.release) == before
    return run


@pytest.fixture
def few(monkeypatch):
    """Claims that take seconds."""
    monkeypatch.setattr(claims, "IMAGES", 60)
    copies = [build_model("cnn", (1, 28, 28), 10).eval() for _ in range(3)]
    monkeypatch.setattr(claims, "NULL_MODELS", 3)
    monkeypatch.setattr(claims, "ordinary_copy", lambda base, seed: copies[seed])


def one_line(capsys):
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    return error


def test_a_mark_has_a_public_and_a_secret_part(marked):
    mark = open_mark(marked, "trigger")
    key = marked.private / "marks" / "trigger.key"
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert stat.S_IMODE(key.parent.stat().st_mode) == 0o700
    public = b"".join(contents(marked.path / "marked").values())
    assert mark.key not in public and mark.key.hex().encode() not in public
    student = load_student(mark.folder)  # in the released student's format
    assert student(torch.rand(2, 1, 28, 28)).shape == (2, 10)
    assert open_mark(marked, "cosine").parameters == {"amplitude": 0.2, "frequency": 0.8}
    assert not (marked.path / "marked" / "cosine" / "student.safetensors").exists()


def test_a_repeated_account_mark_is_claimed_and_the_released_student_is_not(
    marked, few, tmp_path, capsys
):
    mark = open_mark(marked, "dawn")
    rng = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (60, 1, 28, 28), dtype=torch.uint8, generator=rng)
    np.savez(tmp_path / "asked.npz", images=images.numpy())
    asked = ["--account", "mallory", "--images", str(tmp_path / "asked.npz")]
    command = ["claim", str(marked.path), "--name", "dawn", *asked, "--json"]
    # A suspect that answers as the marked endpoint does: it can be told by its lookup table.
    table = {x.numpy().tobytes(): i for i, x in enumerate(images)}
    said = AccountMarks(0.5)(
        load_student(marked)(images / 255).softmax(1).double(), images, mark.key, "mallory"
    )

    class Parrot(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.place = torch.nn.Parameter(torch.zeros(0), requires_grad=False)

        def forward(self, x):
            pixels = (x * 255).round().to(torch.uint8).contiguous()
            return said[[table[p.numpy().tobytes()] for p in pixels]].clamp_min(1e-9).log()

    found = claims.claim(mark, Suspect(Parrot(), "parrot", ""), images=images, account="mallory")
    assert found.claimed and found.figures["repeated"] == found.figures["marked"] > 10
    assert main([*command, "--suspect", str(marked.path)]) == 1
    report = json.loads(capsys.readouterr().out)
    evidence = json.loads((marked.private / "marks/claims/dawn-2.json").read_text())
    assert evidence["p_value"] == report["p_value"] == 1 and not evidence["claimed"]
    assert evidence["key_commitment"] == mark.facts["key_commitment"]
    assert mark.key.hex() not in json.dumps(evidence)


def test_evidence_is_never_overwritten(marked, monkeypatch):
    mark = open_mark(marked, "cosine")
    first, second = (claims._keep_evidence(mark, {"claim": n}) for n in (1, 2))
    first.unlink()
    assert claims._keep_evidence(mark, {"claim": 3}) == first  # the number that is free
    assert json.loads(second.read_text()) == {"claim": 2}
    # Another process takes the next number just before this one writes.
    once, third = claims.make_once, second.with_name("cosine-3.json")

    def late(path, content):
        if path == third:
            third.write_text("{}")
        return once(path, content)

    monkeypatch.setattr(claims, "make_once", late)
    assert claims._keep_evidence(mark, {"claim": 4}).name == "cosine-4.json"
    assert third.read_text() == "{}"


@pytest.mark.parametrize("name", ["cosine", "trigger"])
def test_the_released_student_has_no_mark(marked, few, capsys, name):
    command = ["claim", str(marked.path), "--name", name, "--suspect", str(marked.path)]
    assert main(command) == 1
    assert "not claimed, p = " in capsys.readouterr().out


def test_a_fingerprint_and_a_suspect_by_the_teacher_s_keys(marked, few, tmp_path, capsys):
    state = load_student(marked).state_dict()
    torch.save(state, tmp_path / "copy.pt")
    independent = []
    for seed in range(3):
        torch.manual_seed(seed)
        path = tmp_path / f"other-{seed}.safetensors"
        facts = {"model": "cnn", "shape": [1, 28, 28], "classes": 10}
        write_weights(path, build_model("cnn", (1, 28, 28), 10).state_dict(), facts)
        independent += ["--independent", str(path)]
    model = load_config(marked.release / "config.yaml").student.model
    suspect = ["--suspect-model", model, "--suspect-weights", str(tmp_path / "copy.pt")]
    command = ["claim", str(marked.path), "--name", "fingerprint", *suspect, *independent]
    assert main([*command, "--json", "--alpha", "0.5"]) == 0
    figures = json.loads(capsys.readouterr().out)["figures"]
    assert figures["equal"] == figures["n"] > max(figures["null_equal"])
    # At the default alpha of 1e-6 three models cannot give a claim, whatever the suspect answers.
    for words in (command, command[:-2]):
        assert main(words) == 2
        error = one_line(capsys)
        needed = int(re.search(r"at least (\d+) at --alpha 1e-06", error).group(1))
        assert needed > 4 and least_p_value(figures["n"], needed) < 1e-6
    assert "--independent: 2 models; accepted: at least " in error
    trigger = ["claim", str(marked.path), "--name", "trigger", "--suspect", str(marked.path)]
    assert main([*trigger, *independent]) == 2
    assert "--independent: 3 models; accepted: at least " in one_line(capsys)


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["--name", "trigger"], "give either --suspect PATH, or --suspect-model"),
        (
            ["--name", "nothing", "--suspect", "RUN"],
            "--name nothing: no such mark; accepted: cosine",
        ),
        (["--suspect", "RUN"], "--name: 4 marks in"),
        (["--name", "dawn", "--suspect", "RUN"], "account marks need --account NAME"),
        (["--name", "trigger", "--suspect", "/nowhere"], "no finished run or release folder"),
        (["--name", "trigger", "--suspect", "RUN", "--alpha", "2"], "--alpha: 2.0; accepted"),
        (["--name", "trigger", "--suspect", "RUN", "--images", "/no.npz"], "--images /no.npz: no"),
        (["--name", "cosine", "--suspect", "RUN", "--account", "a"], "--account a: accepted for"),
    ],
)
def test_bad_claims_are_one_line(marked, capsys, more, says):
    run = str(marked.path)
    assert main(["claim", run, *[run if word == "RUN" else word for word in more]]) == 2
    assert says in one_line(capsys)


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["cosine", "--name", "cosine"], "exists; choose another name"),
        (["cosine", "--name", "../x"], "--name: '../x'; accepted: letters"),
        (
            ["cosine", "--name", "c2", "--set", "size=1"],
            "--set size=1: no parameter of cosine; accepted: amplitude, frequency\n",
        ),
        (["cosine", "--name", "c2", "--set", "amplitude=3"], "amplitude 3; accepted: above 0"),
        (
            ["cosine", "--name", "c2", "--set", "amplitude"],
            "--set 'amplitude'; accepted: NAME=NUMBER",
        ),
        # Names that the function itself has are no parameters.
        (["cosine", "--name", "c2", "--set", "seed=3"], "--set seed=3: no parameter of cosine"),
        (["cosine", "--name", "c2", "--set", "name=1"], "--set name=1: no parameter of cosine"),
        (["trigger", "--name", "c2", "--set", "key=5"], "accepted: steps, images"),
        (["fingerprint", "--name", "c2", "--set", "steps=5"], "of fingerprint; accepted: none"),
        (["account_marks", "--name", "c2", "--set", "share=nan"], "share nan; accepted: above 0"),
        (["trigger", "--name", "c2", "--set", "steps=0"], "trigger: steps 0; accepted: whole"),
        (["trigger", "--name", "c2", "--set", "images=9"], "images 9; accepted: whole numbers"),
        (["robust", "--name", "c2", "--set", "pgd_steps=0"], "robust: pgd_steps 0; accepted"),
        (["robust", "--name", "c2", "--set", "steps=1.5"], "robust: steps 1.5; accepted: whole"),
        (["robust", "--name", "c2", "--set", "radius=2"], "radius 2; accepted: above 0, at most 1"),
        (["nasty", "--name", "c2", "--set", "copy_steps=0"], "nasty: copy_steps 0; accepted"),
        (["nasty", "--name", "c2", "--set", "weight=nan"], "weight nan; accepted: finite, at"),
        (["nasty", "--name", "c2", "--set", "weight=-1"], "weight -1; accepted: finite, at"),
        (["nasty", "--name", "c2", "--set", "temperature=0"], "temperature 0; accepted: finite,"),
        (["nasty", "--name", "c2", "--set", f"lr={10**400}"], "nasty: lr inf; accepted: finite"),
        (["nasty", "--name", "c2", "--set", "lr=inf"], "nasty: lr inf; accepted: finite, above 0"),
    ],
)
def test_bad_marks_are_one_line(marked, capsys, more, says):
    assert main(["watermark", str(marked.path), "--mark", *more]) == 2
    assert says in one_line(capsys)
    assert not (marked.path / "marked" / "c2").exists()


def test_another_key_is_noticed(marked, capsys):
    key = marked.private / "marks" / "trigger.key"
    kept = key.read_text()
    try:
        key.write_text("00" * 16)
        command = ["claim", str(marked.path), "--name", "trigger", "--suspect", str(marked.path)]
        assert main(command) == 2
        assert "is not the key to which" in one_line(capsys)
    finally:
        key.write_text(kept)
