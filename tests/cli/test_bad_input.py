import errno
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dpsd.cli import main

CONFIG = """
device: cpu
data: {name: digits}
teacher: {model: cnn-small, epochs: 1}
student: {epochs_per_round: 0.5}
loop: {rounds: 2}
privacy: {epsilon: 1, answers: 400}
"""


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    """An empty folder with a good configuration, tiny.yaml."""
    monkeypatch.chdir(tmp_path)
    Path("tiny.yaml").write_text(CONFIG)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished")
    config = folder / "tiny.yaml"
    config.write_text(CONFIG)
    roots = ["--set", f"teacher.root={folder / 'teachers'}"]
    code = main(["transcribe", str(config), *roots, "--out", str(folder / "run"), "--no-evaluate"])
    assert code == 0
    return folder


@pytest.fixture
def run(finished):
    """A copy of a finished run, and what it was made with."""
    shutil.copytree(finished / "run", "run")
    return ["tiny.yaml", "--set", f"teacher.root={finished / 'teachers'}"]


@pytest.fixture
def refused(capsys):
    """Calls the command line; one line on stderr, code 2, nothing written."""

    def refused(*args, says=()):
        before = _tree()
        capsys.readouterr()
        code = main([str(a) for a in args])
        out, err = capsys.readouterr()
        assert code == 2, out + err
        assert err.startswith("dpsd: error: ") and err.count("\n") == 1 and err[-1] == "\n", err
        for text in [says] if isinstance(says, str) else says:
            assert text in err, err
        assert _tree() == before
        return err

    return refused


def _tree():
    found = Path().rglob("*")
    return {str(p): p.read_bytes() if p.is_file() else None for p in found
            if "__pycache__" not in p.parts}  # fmt: skip


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("privacy.epsilonn=1", ["privacy.epsilonn: unknown key", "did you mean privacy.epsilon?"]),
        ("lop.rounds=3", ["lop: unknown key", "did you mean loop"]),
        ("loop.rounds=many", ["loop.rounds: 'many'", "integer"]),
        ("loop=3", "loop"),
        ("privacy.epsilon=0", ["privacy.epsilon: 0", "greater than 0"]),
        ("privacy.epsilon=-2", ["privacy.epsilon: -2", "greater than 0"]),
        ("privacy.epsilon=.inf", ["privacy.epsilon: inf", "finite"]),
        ("privacy.epsilon=.nan", ["privacy.epsilon: nan", "finite"]),
        ("privacy.epsilon=null", ["privacy.epsilon: null", "above 0"]),
        ("privacy.delta=0", ["privacy.delta: 0", "greater than 0"]),
        ("privacy.delta=1", ["privacy.delta: 1", "less than 1"]),
        ("privacy.top_k=11", ["privacy.top_k: 11", "up to 10"]),
        ("privacy.top_k=1", ["privacy.top_k: 1", "at least 2"]),
        ("privacy={mechanism: none, epsilon: 1}", ["privacy.epsilon: 1", "null"]),
        ("privacy.mechanism=laplace", ["privacy.mechanism: 'laplace'", "gaussian"]),
        ("privacy.answers=1", ["privacy.answers: 1", "too small for one round"]),
        ("data.name=digitz", ["data.name: 'digitz'", "did you mean digits?"]),
        ("data.name=skin.load", ["data.name: 'skin.load'", "did you mean skin:load?"]),
        ("data.classes=12", ["data.classes: 12", "digits has 10"]),
        ("data.shape=[1,32,32]", ["data.shape: [1, 32, 32]", "[1, 28, 28]"]),
        (
            "data={name: none, classes: 2, shape: [64, 48, 3]}",
            ["data.shape: [64, 48, 3]", "channels, height, width", "mean [3, 64, 48]?"],
        ),
        ("student.model=cnn-smal", ["cnn-smal", "cnn-small"]),
        ("generator.kind=images", ["generator.source: null", "folder"]),
        ("generator.photographs=[]", ["generator.photographs: []", "files or folders"]),
        (
            "generator={shares: {photographs: 1}, photographs: nowhere.jpg}",
            ["generator.photographs: nowhere.jpg", "cannot be read"],
        ),
        ("generator.photographs=a.jpg", ["generator.photographs: ['a.jpg']", "above 0"]),
        ("generator.augment=[flip]", ["generator.augment: ['flip']", "kind images"]),
        ("generator.augment=[zoom]", ["generator.augment", "'zoom'", "scale"]),
        ("student.balance=2", ["student.balance: 2", "less than or equal to 1"]),
        ("device=tpu", ["device: 'tpu'", "cuda"]),
        ("epsilon", ["--set epsilon", "KEY=VALUE"]),
    ],
)
def test_configuration(refused, override, says):
    for command in ("plan", "transcribe"):
        refused(command, "tiny.yaml", "--set", override, says=says)


@pytest.mark.parametrize("command", ["plan", "transcribe"])
@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("small.png", ["small.png has 40x20 pixels", "from 24x24"]),
        ("broken.png", ["broken.png is not a readable image"]),
        ("empty", ["generator.photographs: empty", "image"]),
    ],
)
def test_photographs_that_cannot_be_cut(refused, command, name, says):
    Image.new("RGB", (40, 20)).save("small.png")
    Path("broken.png").write_bytes(b"no picture")
    Path("empty").mkdir()
    args = ("--set", f"generator={{shares: {{photographs: 1}}, photographs: {name}}}")
    refused(command, "tiny.yaml", *args, says=says)


def test_gaussian_top_k_above_the_classes(refused):
    args = ("--set", "privacy.mechanism=gaussian", "privacy.top_k=11")
    refused("transcribe", "tiny.yaml", *args, says=["privacy.top_k: 11", "up to 10"])


def test_plan_too_large_for_memory(refused):
    args = ("--set", "privacy.answers=40_000_000_000", "loop.window=40_000_000_000")
    refused("transcribe", "tiny.yaml", *args, says=["loop.rounds: 2", "GiB", "more rounds"])


def test_configuration_files(refused):
    Path("bad.yaml").write_text("a: [1,\n b")
    Path("list.yaml").write_text("- 1")
    refused("plan", "none.yaml", says="none.yaml: No such file")
    refused("plan", "bad.yaml", says="not YAML")
    refused("plan", "list.yaml", says="a mapping of sections is expected")


def _npz(images, labels, name="data.npz"):
    np.savez(name, images=images, labels=labels)
    return ["tiny.yaml", "--set", "data.name=npz", f"data.root={name}", "data.shape=[1,8,8]",
            "data.classes=2"]  # fmt: skip


LABELS = np.arange(20) % 2


@pytest.mark.parametrize(
    ("images", "labels", "says"),
    [
        (np.zeros((20, 1, 9, 8), np.uint8), LABELS, ["[1, 9, 8]", "data.shape is [1, 8, 8]"]),
        (np.full((20, 1, 8, 8), 1.5), LABELS, ["float64 from 1.5 to 1.5", "from 0 to 1"]),
        (np.full((20, 1, 8, 8), 300), LABELS, ["int64 from 300", "uint8"]),
        (np.full((20, 1, 8, 8), np.nan), LABELS, ["nan", "from 0 to 1"]),
        (np.zeros((20, 1, 8, 8), np.uint8), LABELS + 1, ["labels: 1 to 2", "0 to 1"]),
        (np.zeros((20, 1, 8, 8), np.uint8), LABELS[:19], ["20 images and 19 labels"]),
    ],
)
def test_images_of_wrong_size_or_range(refused, images, labels, says):
    refused("transcribe", *_npz(images, labels), says=says)


def test_missing_and_truncated_data_files(refused):
    args = _npz(np.zeros((20, 1, 8, 8), np.uint8), LABELS)
    whole = Path("data.npz").read_bytes()
    Path("data.npz").write_bytes(whole[: len(whole) // 2])
    refused("transcribe", *args, says=["data.npz", "not a readable npz"])
    Path("data.npz").unlink()
    refused("transcribe", *args, says=["data.root: no file", "data.npz"])
    faces = ("--set", "data.name=att_faces", "data.root=.")
    refused("teacher", "tiny.yaml", *faces, says="att_faces.npz")


def test_truncated_idx_file_is_not_downloaded_again(refused):
    raw = Path("MNIST/raw")
    raw.mkdir(parents=True)
    for part in ("train", "t10k"):
        (raw / f"{part}-images-idx3-ubyte").write_bytes(b"\0\0\x08\x03\0\0\0\x05")
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(b"\0\0\x08\x01\0\0\0\x05")
    args = ("--set", "data.name=mnist", "data.root=.")
    refused("teacher", "tiny.yaml", *args, says=["MNIST", "incomplete or damaged"])


def test_unreadable_picture_and_wrong_number_of_folders(refused):
    for name in ("a", "b"):
        Path("train", name).mkdir(parents=True)
        Image.new("L", (8, 8)).save(f"train/{name}/0.png")
    Path("train/b/1.png").write_bytes(b"no picture")
    args = ("--set", "data.name=image_folder", "data.root=.", "data.shape=[1,8,8]")
    refused("transcribe", "tiny.yaml", *args, "data.classes=2", says=["1.png", "not a readable"])
    refused("transcribe", "tiny.yaml", *args, "data.classes=3", says=["data.classes: 3", "has 2"])


class _Wide(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.flatten(1)[:, :7]


def test_teacher_whose_output_is_too_wide_or_narrow(refused):
    torch.jit.script(_Wide()).save("wide.pt")
    for command in ("check-teacher", "transcribe"):
        refused(command, "tiny.yaml", "--set", "teacher.weights=wide.pt",
                says=["width 7", "data.classes 10"])  # fmt: skip


def test_unreadable_teacher(refused):
    Path("bad.pt").write_bytes(b"no weights")
    torch.save({"a.weight": torch.zeros(3)}, "other.pt")
    torch.save({"w": torch.zeros(4000)}, "whole.pt")
    Path("short.pt").write_bytes(Path("whole.pt").read_bytes()[:5000])
    for name, says in (("bad.pt", "unreadable"), ("short.pt", "unreadable"),
                       ("other.pt", "does not fit the model"), ("none.pt", "no")):  # fmt: skip
        refused("transcribe", "tiny.yaml", "--set", f"teacher.weights={name}", says=[name, says])
    refused("transcribe", "tiny.yaml", "--set", "teacher.path=nowhere", says="nowhere")
    refused("transcribe", "tiny.yaml", "--set", "teacher.model=no.such:thing", says="no.such")


def test_own_teacher_is_not_trained(refused):
    refused("teacher", "tiny.yaml", "--set", "teacher.weights=w.pt", says="w.pt is your own")


def test_run_folder_exists(refused, run):
    refused("transcribe", *run, "--out", "run", says=["run: exists", "--resume"])


def test_resume_of_nothing(refused, run):
    refused("transcribe", *run, "--resume", says="--out DIR")
    refused("transcribe", *run, "--resume", "--out", "elsewhere", says="no run folder")


def test_resume_with_another_configuration(refused, run):
    says = ["privacy.epsilon (1.0 -> 2.0)", "seed (0 -> 5)"]
    args = ("--epsilon", "2", "--seed", "5", "--resume", "--out", "run")
    err = refused("transcribe", *run, *args, says=says)
    assert "loop" not in err


def test_unreadable_checkpoint(refused, run):
    newest = max(Path("run/private/checkpoints").glob("round-*.pt"))
    newest.write_bytes(newest.read_bytes()[:1000])
    refused("transcribe", *run, "--resume", "--out", "run", says=[newest.name, "unreadable"])


def test_commands_on_what_is_no_run(refused):
    Path("empty").mkdir()
    refused("evaluate", "empty", says="empty: no run folder")
    refused("verify", "empty", says="empty/statement.json")
    refused("sample", "empty", "--n", "5", "--out", "x.npz", says="empty")
    refused("export", "empty", "--format", "torch", says="empty")


def test_sample_and_its_check(refused, run, finished):
    out, check = ("--out", "x.npz"), ("--n", "20", "--check")
    refused("sample", "run", "--n", "20", says="--out: missing")
    refused("sample", "run", "--n", "9", "--balanced", *out, says=["n: 9", "from 10"])
    refused("sample", "run", "--n", "9", "--split", "test", *out, says="--split: accepted with")
    refused("sample", "run", "--n", "9", "--rows", "x", *out, says="--rows: accepted with --check")
    refused("sample", "run", *check, "--rows", "nowhere", says="--rows: nowhere: no such file")
    refused("sample", "run/release", *check, says="run/release: no run folder")
    refused("sample", "run", *check, "--model", "cnn-small", says="the student's architecture")
    refused("sample", "run", *check, "--model", "cnn-smal", says=["cnn-smal", "cnn-small"])
    refused("sample", "run", *check, "--teacher", "nowhere", says="nowhere")
    refused("sample", "run", *check, "--hard", "--temperature", "2", says="without --hard")


def test_verify_finds_a_changed_figure_file_and_text(refused, run):
    release = Path("run/release")
    facts = json.loads((release / "statement.json").read_text())
    better = facts | {"guarantee": facts["guarantee"] | {"epsilon": 0.5}}
    (release / "statement.json").write_text(json.dumps(better))
    refused("verify", release, says="does not fit statement.json: it was changed since")
    (release / "statement.json").write_text(json.dumps(facts))
    (release / "config.yaml").write_text("seed: 1")
    refused("verify", release, says="config.yaml: changed")


def test_full_disk_while_writing_a_checkpoint(run, monkeypatch, capsys):
    monkeypatch.setattr(sys.modules["dpsd.transcription.transcribe"], "_CHECKPOINT_SECONDS", 0.0)
    save, calls = torch.save, []

    def full(state, file):
        calls.append(1)
        if len(calls) == 1:
            return save(state, file)
        file.write(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    code = main(["transcribe", *run, "--out", "fresh", "--no-evaluate"])
    out, err = capsys.readouterr()
    assert code == 2 and err.count("\n") == 1 and "No space left on device" in err, out + err
    (kept,) = Path("fresh/private/checkpoints").iterdir()
    assert kept.name == "round-000001.pt" and torch.load(kept, weights_only=True)["round"] == 1
    assert not list(Path("fresh/release").glob("student*"))
    monkeypatch.setattr(torch, "save", save)
    args = ("--resume", "--out", "fresh", "--no-evaluate")
    assert main(["transcribe", *run, *args]) == 0
    assert main(["verify", "fresh/release"]) == 0


def test_full_disk_elsewhere(refused, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device", "somewhere")

    monkeypatch.setattr("dpsd.config.load_config", full)
    refused("plan", "tiny.yaml", says="somewhere: No space left on device")


def test_interrupted(monkeypatch, capsys):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("dpsd.config.load_config", interrupt)
    assert main(["plan", "tiny.yaml"]) == 130
    assert capsys.readouterr().err == "dpsd: interrupted\n"


@pytest.mark.parametrize(
    "args",
    [["sample", "run", "--n", "0", "--out", "x.npz"], ["sample", "run", "--n", "5", "--best", "0"],
     ["export", "run", "--format", "h5"],
     ["evaluate", "run", "--split", "all"], ["no-such-command"], []],
)  # fmt: skip
def test_arguments(args, capsys):
    with pytest.raises(SystemExit) as e:
        main(args)
    assert e.value.code == 2 and "dpsd" in capsys.readouterr().err


@pytest.mark.parametrize("command", [["plan"], ["transcribe", "--out", "run"]])
def test_a_bank_larger_than_the_disk_is_refused(command, refused, monkeypatch):
    from dpsd.transcription import session

    monkeypatch.setattr(session, "free_bytes", lambda folder: 1000)
    line = refused(command[0], "tiny.yaml", *command[1:])
    assert "loop.window: 400 images and their answers need" in line and "on the disk of" in line
    assert {p.name for p in Path().iterdir()} == {"tiny.yaml"}
