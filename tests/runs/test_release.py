import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from products import contents, copy_of, tiny_run
from safetensors.torch import load_file, save_file

from dpsd.errors import UserError
from dpsd.models.networks import build_model
from dpsd.privacy.releases import load_release
from dpsd.privacy.verify import verify_release
from dpsd.runs import export as exporting
from dpsd.runs import release, samples
from dpsd.runs.export import export
from dpsd.runs.release import load_student
from dpsd.runs.samples import draw_samples


def sample(run, n, out):
    draw_samples(run, n).write(out)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return tiny_run(tmp_path_factory)


@pytest.fixture
def alone(finished, tmp_path):
    """The release folder by itself, without any private part."""
    shutil.copytree(finished.release, tmp_path / "published")
    return tmp_path / "published"


def _reference(folder):
    model = build_model("cnn-small", (1, 28, 28), 10)
    model.load_state_dict(load_file(folder / "student.safetensors"))
    return model.eval()


def test_student_loads_from_run_folder_and_release_alone(finished, alone):
    images = torch.rand(3, 1, 28, 28)
    with torch.no_grad():
        wanted = _reference(alone)(images)
        for where in (finished, finished.path, str(finished.path), finished.release, alone):
            model = load_student(where)
            assert not model.training
            assert torch.equal(model(images), wanted)


def test_a_labeller_takes_large_images_in_small_batches():
    seen = []

    class Model(torch.nn.Module):
        def forward(self, images):
            seen.append(len(images))
            return torch.zeros(len(images), 2)

    images = torch.zeros(1, 1, 1, 1, dtype=torch.uint8)
    labeller = release.Labeller(Model(), torch.device("cpu"))
    assert len(labeller.predict(images.expand(120, 3, 224, 224))) == 120
    assert seen == [55, 55, 10]  # 2^23 pixel values are 55.7 images
    labeller.predict(images.expand(600, 3, 8, 8))
    assert seen[3:] == [512, 88]


def test_student_that_is_missing_or_damaged(finished, alone, tmp_path):
    with pytest.raises(UserError, match="no finished run or release folder"):
        load_student(tmp_path)
    path = alone / "student.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="no readable student"):
        load_student(alone)
    save_file(load_file(finished.release / "student.safetensors"), path)  # no metadata
    with pytest.raises(UserError, match="no readable student"):
        load_student(alone)
    facts = {"dpsd": json.dumps({"model": "cnn", "shape": [1, 28, 28], "classes": 10})}
    save_file(load_file(finished.release / "student.safetensors"), path, facts)
    with pytest.raises(UserError, match="does not fit the model"):
        load_student(alone)


def test_samples(finished, alone, tmp_path, monkeypatch):
    monkeypatch.setattr(samples, "_CHUNK", 40)
    sample(alone, 100, tmp_path / "deep" / "s.npz")
    with np.load(tmp_path / "deep" / "s.npz") as found:
        images, labels, probabilities = (
            found[k] for k in ("images", "labels", "probabilities")
        )  # fmt: skip
    assert images.dtype == np.uint8 and images.shape == (100, 1, 28, 28)
    assert labels.dtype == np.int64 and probabilities.dtype == np.float32
    with torch.no_grad():
        wanted = _reference(alone)(torch.from_numpy(images).float() / 255).softmax(1).numpy()
    assert np.allclose(probabilities, wanted, atol=1e-5)
    assert np.array_equal(labels, probabilities.argmax(1))
    assert len({x.tobytes() for x in images}) > 90
    asked = {x.numpy().tobytes() for i in (0, 1000) for x in load_release(finished.bank, i)[0]}
    assert not asked & {x.tobytes() for x in images}
    sample(finished.path, 100, tmp_path / "again.npz")
    with np.load(tmp_path / "again.npz") as again:
        assert np.array_equal(again["images"], images)


def test_samples_come_from_the_released_generator(alone, tmp_path):
    sample(alone, 400, tmp_path / "a.npz")
    weights = load_file(alone / "generator.safetensors")
    save_file({k: torch.zeros_like(v) for k, v in weights.items()}, alone / "generator.safetensors")
    sample(alone, 400, tmp_path / "b.npz")
    with np.load(tmp_path / "a.npz") as a, np.load(tmp_path / "b.npz") as b:
        assert not np.array_equal(a["images"], b["images"])
        flat = b["images"].reshape(400, -1)
        assert (flat == flat[:, :1]).all(1).any()  # weights of zero make grey images


def test_samples_that_cannot_be_written_leave_nothing(alone, tmp_path):
    with pytest.raises(UserError, match="n: 0; accepted: from 1"):
        sample(alone, 0, tmp_path / "s.npz")
    blocked = tmp_path / "folder"
    blocked.mkdir()
    with pytest.raises(UserError, match="cannot be written"):
        sample(alone, 5, blocked)
    (alone / "generator.safetensors").write_bytes(b"torn")
    with pytest.raises(UserError, match=r"generator\.safetensors: unreadable"):
        sample(alone, 5, tmp_path / "s.npz")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["folder", "published"]


@pytest.mark.parametrize("format", ["torch", "onnx"])
def test_export_runs_without_dpsd(finished, tmp_path, format):
    run = copy_of(finished, tmp_path / "run")
    path = export(run, format)
    assert path == run.path / {"torch": "student.pt2", "onnx": "student.onnx"}[format]
    verify_release(run.release)
    images = torch.rand(7, 1, 28, 28)
    np.save(tmp_path / "images.npy", images.numpy())
    read = {
        "torch": "import torch; m = torch.export.load(sys.argv[1]).module(); "
        "f = lambda x: m(torch.from_numpy(x)).detach().numpy()",
        "onnx": "import onnxruntime as o; s = o.InferenceSession(sys.argv[1]); "
        "f = lambda x: s.run(None, {'images': x})[0]",
    }[format]
    code = (
        "import sys; sys.modules['dpsd'] = None\nimport numpy as np\n" + read + "\n"
        "x = np.load('images.npy')\n"
        "np.savez('out.npz', **{str(n): f(x[:n]) for n in (1, 5, 7)})"
    )
    subprocess.run([sys.executable, "-c", code, path], cwd=tmp_path, check=True)
    with torch.no_grad(), np.load(tmp_path / "out.npz") as out:
        wanted = _reference(run.release)(images).numpy()
        for n in (1, 5, 7):
            assert np.allclose(out[str(n)], wanted[:n], atol=1e-4)
    here = str(Path(release.__file__).parent).encode()
    assert here not in path.read_bytes()


def test_onnxruntime_reports_to_nobody(alone, monkeypatch):
    """It reads the variable when it is loaded, which is when the file is read again."""
    monkeypatch.delenv("ORT_DISABLE_TELEMETRY", raising=False)
    seen = []

    def read(path):
        seen.append(os.environ.get("ORT_DISABLE_TELEMETRY"))
        return load_student(alone)

    monkeypatch.setattr(exporting, "_read_onnx", read)
    export(alone, "onnx")
    assert seen == ["1"]


@pytest.mark.parametrize("format", ["torch", "onnx"])
def test_a_student_on_fixed_wavelets_is_exported_too(alone, format):
    model = build_model("scatter-bn", (1, 28, 28), 10)
    facts = {"dpsd": json.dumps({"model": "scatter-bn", "shape": [1, 28, 28], "classes": 10})}
    state = model.state_dict() | {"head.weight": torch.randn(10, 3969)}
    assert not [k for k in state if k.startswith("filters")]  # the wavelets are not saved
    save_file(state, alone / "student.safetensors", facts)
    assert export(alone, format).stat().st_size > 4 * 3969 * 10


def test_an_export_that_differs_is_not_handed_over(alone, tmp_path, monkeypatch):
    write = exporting._write_torch

    def other(model, images, path):
        write(build_model("cnn-small", (1, 28, 28), 10).eval(), images, path)

    monkeypatch.setattr(exporting, "_write_torch", other)
    before = contents(tmp_path)
    with pytest.raises(UserError, match="differ from the student's"):
        export(alone, "torch", tmp_path / "student.pt2")
    assert contents(tmp_path) == before


def test_a_fixed_batch_is_not_handed_over(alone, tmp_path, monkeypatch):
    def fixed(model, images, path):
        torch.export.save(torch.export.export(model, (images,)), path)

    monkeypatch.setattr(exporting, "_write_torch", fixed)
    with pytest.raises(UserError, match="export torch: fails on 1 random image"):
        export(alone, "torch")
    assert [p.name for p in tmp_path.iterdir()] == ["published"]


def test_export_refusals(alone, monkeypatch):
    with pytest.raises(UserError, match="format: 'tflite'; accepted: torch, onnx"):
        export(alone, "tflite")
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "onnxscript" else find(name)
    )
    with pytest.raises(UserError, match=r"onnxscript is not installed; pip install dpsd\[onnx\]"):
        export(alone, "onnx")
