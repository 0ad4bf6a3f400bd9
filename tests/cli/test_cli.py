import contextlib
import importlib
import io
import json
import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

import dpsd
from dpsd.cli import main
from dpsd.config import load_config
from dpsd.privacy.plan import Plan

ROOT = Path(__file__).parents[2]
TINY = ["teacher.model=cnn-small", "teacher.epochs=1", "loop.rounds=2", "privacy.answers=1000",
        "student.epochs_per_round=0.5"]  # fmt: skip


def dpsd_process(*args, cwd):
    """What the command prints in a process of its own, which takes seconds to import torch."""
    done = subprocess.run(
        [sys.executable, "-m", "dpsd", *map(str, args)], cwd=cwd, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def dpsd_command(*args, cwd):
    """What the command prints in this process."""
    out = io.StringIO()
    with contextlib.chdir(cwd), contextlib.redirect_stdout(out):
        assert main([str(a) for a in args]) == 0
    return out.getvalue()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("cli")


@pytest.fixture(scope="module")
def config(folder):
    path = folder / "tiny.yaml"
    path.write_text((ROOT / "configs/digits.yaml").read_text())
    return [path, "--set", *TINY, "--device", "cpu"]


@pytest.fixture(scope="module")
def transcribed(folder, config):
    trained = dpsd_process("teacher", *config, cwd=folder)
    printed = dpsd_process(
        "transcribe", *config, "--out", "run", "--epsilon", "2", "--data-is-public", cwd=folder
    )
    return SimpleNamespace(trained=trained, printed=printed, run=folder / "run")


def test_help_imports_nothing_heavy(folder):
    code = (
        "import sys\nfrom dpsd.cli import main\nimport dpsd; dpsd.__version__\n"
        "try: main(sys.argv[1:])\nexcept SystemExit as e: assert e.code == 0\n"
        "heavy = {'torch', 'numpy', 'scipy', 'pydantic', 'rich', 'yaml'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    for args in (["--help"], ["transcribe", "--help"], ["--version"]):
        done = subprocess.run(
            [sys.executable, "-c", code, *args], cwd=folder, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr


def test_teacher_is_trained_once_and_described(transcribed):
    assert "accuracy on holdout" in transcribed.trained
    assert '"model": "cnn-small"' in transcribed.trained
    assert "training cnn-small" in transcribed.trained
    assert "training cnn-small" not in transcribed.printed


def test_transcribe_prints_progress_statement_and_table(transcribed):
    out = transcribed.printed
    assert re.search(r"round 1/2 +answers 500/1,000 +loss [\d.]+ ", out)
    assert "epsilon 2 per answer" in out
    assert (transcribed.run / "release/statement.txt").read_text().strip() in out
    report = json.loads((transcribed.run / "private/report.json").read_text())
    for line in (r"teacher accuracy \(holdout\) +\d", r"student accuracy \(holdout\) +\d",
                 r"agreement \(holdout\) +\d", r"answers asked +1,000",
                 r"epsilon +2 per answer at delta 1e-05", r"seconds +\d",
                 r"run folder +run"):  # fmt: skip
        assert re.search(line, out), line
    assert report["answers"] == 1000 and report["privacy"]["epsilon"] == 2


def test_plan_text_and_json(folder, config):
    facts = json.loads(dpsd_command("plan", *config, "--json", cwd=folder))
    assert facts["answers"] == 1000 and facts["unit"] == "answer" and facts["private"]
    at = {row["delta"]: row for row in facts["epsilon_at"]}
    assert at[1e-5]["per_answer"] == 1
    assert 450 < at[1e-5]["per_record_worst_case"] < 1000  # near N eps tanh(eps/2), below N eps
    assert facts["estimate"]["bytes"] > 1000 * 784 and facts["estimate"]["seconds"] > 0


def test_plan_of_no_mechanism_is_stamped(folder, config, capsys):
    files = set(folder.iterdir())
    args = ["privacy.mechanism=none", "privacy.epsilon=null"]
    assert main(["plan", *map(str, config), "--set", *args]) == 0
    out = capsys.readouterr().out
    assert out.startswith("NOT PRIVATE") and "epsilon infinite per answer" in out
    assert set(folder.iterdir()) == files
    for line in out.splitlines():
        if "epsilon" in line and re.search(r"epsilon (\d|infinite)", line):
            assert "per answer" in line


def test_check_teacher(folder, config, transcribed):
    checks = json.loads(dpsd_command("check-teacher", *config, "--json", cwd=folder))["checks"]
    assert {"output", "finite", "determinism", "speed"} <= {row["check"] for row in checks}
    assert all(row["message"] for row in checks)


def test_evaluate(folder, transcribed):
    result = json.loads(dpsd_command("evaluate", transcribed.run, "--json", cwd=folder))
    assert result["split"] == "test" and result["rows"] == 359
    report = json.loads((transcribed.run / "private/report.json").read_text())
    assert report["student"]["accuracy"] == result["student"]["accuracy"]
    held_out = dpsd_command("evaluate", transcribed.run, "--split", "holdout", cwd=folder)
    assert "split holdout" in held_out


def test_verify(folder, transcribed, capsys):
    release = transcribed.run / "release"
    assert "verified" in dpsd_command("verify", release, cwd=folder)
    assert main(["verify", str(release), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["verified"] and facts["guarantee"]["epsilon"] == 2


def test_sample(folder, transcribed):
    dpsd_command("sample", transcribed.run, "--n", 20, "--out", "made.npz", cwd=folder)
    with np.load(folder / "made.npz") as made:
        assert made["images"].shape == (20, 1, 28, 28) and made["labels"].shape == (20,)


def test_export(folder, transcribed):
    dpsd_command("export", transcribed.run, "--format", "torch", "--out", "student.pt2", cwd=folder)
    images = torch.rand(3, 1, 28, 28)
    program = torch.export.load(folder / "student.pt2").module()
    expected = dpsd.load_student(transcribed.run)(images)
    torch.testing.assert_close(program(images), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.skipif(not find_spec("onnxruntime"), reason="needs the extra onnx")
def test_export_onnx(folder, transcribed):
    dpsd_command("export", transcribed.run, "--format", "onnx", cwd=folder)
    assert (transcribed.run / "student.onnx").stat().st_size > 0


def test_own_teacher_and_image_folder(folder):
    """configs/custom.yaml with a torchvision ResNet-18 and folders of pictures."""

    def here(*args):
        return dpsd_command(*args, cwd=folder)

    names, rng = ("a", "b", "c"), np.random.default_rng(0)
    for split in ("train", "test"):
        for name in names:
            (folder / "pictures" / split / name).mkdir(parents=True)
            for i in range(6):
                pixels = rng.integers(0, 256, (40, 40, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / "pictures" / split / name / f"{i}.png")
    _save_resnet18(folder / "mine.pt", classes=3)
    config = [ROOT / "configs/custom.yaml", "--set", "data.root=pictures", "data.shape=[3,32,32]",
              "data.classes=3", "teacher.weights=mine.pt", "student.model=cnn-small",
              "loop.rounds=2", "privacy.answers=400", "--device", "cpu"]  # fmt: skip
    checks = here("check-teacher", *config)
    assert re.search(r"^input +pixels 0 to 1, .*, 3 x 32 x 32$", checks, re.MULTILINE)
    assert "fits; whether it is right on your images was not measured (--rows" in checks
    assert not (folder / "mine.pt.dpsd").exists()
    assert "images of 3 x 32 x 32, 3 classes" in here("plan", *config)
    out = here("transcribe", *config, "--out", "own")
    assert re.search(r"answers asked +400", out)
    report = json.loads((folder / "own/private/report.json").read_text())
    assert 0 <= report["student"]["agreement"] <= 1
    assert not (folder / "mine.pt.dpsd").exists()
    assert list((Path(os.environ["DPSD_HOME"]) / "own").glob("*/ledger.jsonl"))
    assert "split test, 18 rows" in here("evaluate", "own")
    assert len((ROOT / "configs/custom.yaml").read_text().splitlines()) < 25


def _save_resnet18(path, classes):
    from torchvision.models import resnet18

    from dpsd.generator.procedural import procedural

    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = resnet18(weights=None, num_classes=classes).eval()
    images = procedural("leaves", 32, (3, 32, 32), torch.Generator().manual_seed(0))
    with torch.no_grad():  # centred, so that an untrained net predicts more than one class
        net.fc.bias -= net((images / 255 - 0.45) / 0.225).mean(0)
    torch.save(net.state_dict(), path)


@pytest.mark.parametrize("name", ["digits", "mnist", "fashion_mnist", "cifar10", "custom"])
def test_ready_made_configurations_have_a_plan(name):
    plan = dpsd.plan(ROOT / f"configs/{name}.yaml")
    assert isinstance(plan, Plan) and plan.private
    assert plan.answers == plan.rounds * plan.queries_per_round


def test_api_takes_files_trees_and_configurations():
    path = ROOT / "configs/digits.yaml"
    assert dpsd.plan(path) == dpsd.plan(str(path)) == dpsd.plan(dpsd.load_config(path))
    assert dpsd.plan({"privacy": {"epsilon": 3, "answers": 100}}).epsilon == 3


def test_transcribe_stays_the_function_when_the_submodule_is_imported():

    importlib.import_module("dpsd.transcription.transcribe")
    assert callable(dpsd.transcribe) and dpsd.transcribe.__module__ == "dpsd"
    assert "distil" in vars(sys.modules["dpsd.transcription.transcribe"])
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        dpsd.nothing  # noqa: B018


def test_api_transcribes_without_a_command_line(folder, config, transcribed):
    seen = []
    config = load_config(
        config[0],
        [*TINY, "privacy.answers=400", "device=cpu"],
    )
    run = dpsd.transcribe(config, out=folder / "api", progress=seen.append, evaluate=False)
    assert [record["round"] for record in seen] == [0, 1]
    assert run.report()["student"]["accuracy"] is None
    assert dpsd.load_student(run)(torch.zeros(1, 1, 28, 28)).shape == (1, 10)
    statement = json.loads((run.release / "statement.json").read_text())
    assert len(statement["earlier_runs"]) == 1


@pytest.mark.parametrize("script", ["scripts/demo", "scripts/test", ".ci/run"])
def test_scripts_are_executable_bash(script):
    path = ROOT / script
    assert path.stat().st_mode & 0o111 and "set -euo pipefail" in path.read_text()
    subprocess.run(["bash", "-n", path], check=True)


def test_of_several_processes_the_first_alone_speaks_of_a_federation(monkeypatch, capsys):
    """The others get no run from `federate`."""
    config = str(ROOT / "configs" / "digits_federated.yaml")
    seen = []

    def federate(config, **named):
        seen.append(named["progress"])
        named["say"]("client 0: training")

    monkeypatch.setattr("dpsd.federated.federate.federate", federate)
    monkeypatch.setenv("RANK", "1")
    assert main(["federate", config]) == 0
    assert seen == [None]
    assert capsys.readouterr().out == ""
