"""Models built by name, the frozen teacher, and real weight files of every kind."""

import copy
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torchvision
from safetensors.torch import save_file
from torch import nn

from dpsd.config import PublicFacts
from dpsd.config.sections import Normalize, TeacherConfig
from dpsd.errors import UserError
from dpsd.imports import import_object
from dpsd.models.dp_networks import DP_MODELS
from dpsd.models.frozen import Teacher
from dpsd.models.networks import OWN, build_model, logits_and_features
from dpsd.models.own import load_own_teacher, read_own_teacher
from dpsd.teachers.check import check_teacher

RGB = PublicFacts((3, 32, 32), 4, ("0", "1", "2", "3"))
GREY = PublicFacts((1, 28, 28), 4, ("0", "1", "2", "3"))


@pytest.fixture(scope="module")
def resnet() -> nn.Module:
    torch.manual_seed(0)
    return torchvision.models.resnet18(num_classes=4).eval()


@pytest.fixture(scope="module")
def small() -> nn.Module:
    torch.manual_seed(0)
    return build_model("cnn-small", RGB.shape, 4).eval()


def images(facts: PublicFacts, n: int = 6) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (n, *facts.shape), dtype=torch.uint8, generator=generator)


def refuse(config: TeacherConfig, *parts: str, facts: PublicFacts = RGB) -> None:
    with pytest.raises(UserError) as caught:
        load_own_teacher(config, facts)
    text = str(caught.value)
    assert "\n" not in text
    for part in parts:
        assert part in text, text


@pytest.mark.parametrize("name", ["cnn-small", "cnn-lite"])
@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32), (3, 9, 5)])
@pytest.mark.parametrize("order", [torch.contiguous_format, torch.channels_last])
def test_small_networks_are_flatten_and_linear_in_any_memory_order(name, shape, order):
    torch.manual_seed(0)
    model = build_model(name, shape, 7).to(memory_format=order)
    state = model.body.state_dict()
    x = torch.rand(5, *shape).contiguous(memory_format=order)
    maps = model.body[:12]((x - 0.5) / 0.5)
    hidden = torch.relu(maps.flatten(1) @ state["13.weight"].T + state["13.bias"])
    torch.testing.assert_close(model(x), model.head(hidden))
    model(x).square().sum().backward()
    assert model.body[13].weight.grad.shape == state["13.weight"].shape


@pytest.mark.parametrize("name", OWN + DP_MODELS)
def test_opacus_has_a_rule_for_each_layer_that_dp_sgd_trains(name):
    from opacus import GradSampleModule

    # Without a rule it differentiates the layer's own code for each record: half as long again.
    layers = [m for m in build_model(name, (1, 28, 28), 10, norm="group").modules()
              if any(True for _ in m.parameters(recurse=False))]  # fmt: skip
    assert layers and all(type(m) in GradSampleModule.GRAD_SAMPLERS for m in layers)


@pytest.mark.parametrize("name", ["cnn", "cnn-small", "cnn-lite", "resnet20", "scatter-bn"])
@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32), (1, 112, 92), (3, 9, 5)])
@pytest.mark.parametrize("norm", ["batch", "group"])
def test_own_models(name, shape, norm):
    model = build_model(name, shape, 7, norm=norm)
    x = torch.rand(3, *shape)
    assert model(x).shape == (3, 7)
    model.eval()
    logits, features = logits_and_features(model, x)
    assert torch.allclose(model.head(features), logits) and torch.equal(logits, model(x))
    kinds = {type(m) for m in model.modules()}
    assert bool({nn.BatchNorm1d, nn.BatchNorm2d} & kinds) == (norm == "batch")
    if norm == "group":
        assert torch.allclose(model(x)[:1], model(x[:1]), atol=1e-5)


def test_a_batch_of_one_row_trains_with_the_running_statistics():
    model = build_model("scatter-bn", (1, 28, 28), 10).train()
    x = torch.rand(4, 1, 28, 28)
    model(x)
    before = model.norm.running_mean.clone()
    logits = model(x[:1])
    assert torch.equal(model.norm.running_mean, before) and model.training
    assert torch.allclose(model.eval()(x[:1]), logits)


def test_sizes():
    def count(model: nn.Module) -> int:
        return sum(p.numel() for p in model.parameters())

    # cnn-small: 3x3 kernels, two parameters a channel of batch norm, two linear layers.
    convolutions = 9 * (16 + 16 * 32 + 32 * 64) + 2 * (16 + 32 + 64)
    linear = 64 * 7 * 7 * 128 + 128 + 128 * 10 + 10
    assert count(build_model("cnn-small", (1, 28, 28), 10)) == convolutions + linear
    convolutions = 9 * (16 + 16 * 32 + 32 * 32) + 2 * (16 + 32 + 32)
    linear = 32 * 7 * 7 * 128 + 128 + 128 * 10 + 10
    assert count(build_model("cnn-lite", (1, 28, 28), 10)) == convolutions + linear
    # He et al. 2016, table 6: 0.27 million.
    assert count(build_model("resnet20", (3, 32, 32), 10)) == 269_722


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small"])
def test_torchvision_models(name):
    model = build_model(name, (1, 32, 32), 5).eval()
    x = torch.rand(2, 1, 32, 32)
    assert model(x).shape == (2, 5)
    assert logits_and_features(model, x)[1].ndim == 2
    assert torch.allclose(model(x), model.net((x.repeat(1, 3, 1, 1) - 0.5) / 0.5))
    assert all(p.requires_grad for p in model.parameters()) and model.train().net.training
    if name == "resnet18":
        groups = build_model(name, (1, 32, 32), 5, norm="group")
        assert not any(isinstance(m, nn.BatchNorm2d) for m in groups.modules())


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("resnet19", "resnet18"),
        ("cnn-smal", "cnn-small"),
        ("alexnet", "[1, 28, 28]"),
        ("no.such.module:f", "module no was not found"),
        ("collections:Counter", "accepted: an nn.Module"),
    ],
)
def test_build_refused(name, part):
    with pytest.raises(UserError) as caught:
        build_model(name, (1, 28, 28), 10)
    assert part in str(caught.value)


def test_import_path_takes_classes_where_it_can(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "my_nets_1.py").write_text(
        "from torch import nn\n"
        "def net(k): return nn.Sequential(nn.Flatten(), nn.Linear(784, k))\n"
        "def by_name(dropout=False, num_classes=2): return net(num_classes)\n"
        "def ready(pretrained=True): return net(4)\n"
        "fixed = net(4)\n"
        "def logits(x): return x.flatten(1)[:, :4]\n"
        "def function(): return logits\n"
        "def broken(k): raise ValueError('two\\nlines')\n"
    )
    for name in ("net", "by_name", "ready", "fixed"):
        assert (
            build_model(f"my_nets_1:{name}", GREY.shape, 4)(torch.rand(2, 1, 28, 28)).shape[1] == 4
        )
        teacher = load_own_teacher(TeacherConfig(model=f"my_nets_1:{name}"), GREY)
        assert teacher(images(GREY)).shape == (6, 4)
    teacher = load_own_teacher(TeacherConfig(model="my_nets_1:function"), GREY)
    assert torch.equal(teacher(images(GREY)), images(GREY).flatten(1)[:, :4] / 255)
    refuse(TeacherConfig(model="my_nets_1:broken"), "my_nets_1:broken", "two lines", facts=GREY)
    refuse(TeacherConfig(model="my_nets_1:nett"), "net", facts=GREY)
    with pytest.raises(UserError, match="expected package"):
        import_object("my_nets_1")


def test_teacher_is_frozen_and_owns_its_input():
    model = nn.Sequential(nn.Conv2d(3, 4, 28), nn.Flatten(), nn.Dropout(0.9)).train()
    plain = copy.deepcopy(model).eval()
    normalize = Normalize(mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7))
    teacher = Teacher(model, classes=4, shape=(1, 28, 28), normalize=normalize)
    assert teacher.in_channels == 3
    x = images(GREY).double().repeat(1, 3, 1, 1) / 255
    mean, std = (torch.tensor(v).double()[:, None, None] for v in (normalize.mean, normalize.std))
    expected = plain.double()((x - mean) / std)
    out = teacher(images(GREY))
    assert out.dtype == torch.float32 and torch.allclose(out.double(), expected, atol=1e-5)
    assert not out.requires_grad and not out.is_inference()
    teacher.train()
    assert not any(m.training for m in teacher.modules())
    assert not any(p.requires_grad for p in teacher.parameters())
    for wrong in (images(GREY).float(), images(RGB), images(GREY)[0]):
        with pytest.raises(UserError, match="accepted: uint8"):
            teacher(wrong)


class Out(nn.Module):
    def __init__(self, shape: object) -> None:
        super().__init__()
        self.shape = shape

    def forward(self, x: torch.Tensor) -> object:
        flat = x.flatten(1)
        return self.shape(flat)  # type: ignore[operator]


@pytest.mark.parametrize(
    "shape",
    [
        lambda z: SimpleNamespace(logits=z[:, :2]),
        lambda z: {"loss": None, "logits": z[:, :2]},
        lambda z: (z[:, :2], z),
        lambda z: [z[:, :2].half()],
    ],
)
def test_output_kinds(shape):
    z = Teacher(Out(shape), classes=2, shape=(1, 28, 28))(images(GREY))
    expected = images(GREY).flatten(1)[:, :2] / 255
    assert z.dtype == torch.float32 and torch.allclose(z, expected, atol=1e-3)


@pytest.mark.parametrize("shape", [lambda z: z[:, :1], lambda z: z[:, 0]])
def test_one_logit(shape):
    z = Teacher(Out(shape), classes=2, shape=(1, 28, 28))(images(GREY))
    x = images(GREY).flatten(1)[:, 0] / 255
    # Softmax of [0, z] is the sigmoid of z.
    assert torch.allclose(z.softmax(1)[:, 1], torch.sigmoid(x))


@pytest.mark.parametrize(
    ("shape", "classes", "part"),
    [
        (lambda z: z[:, :5], 4, "width 5"),
        (lambda z: z[:, :7], 4, "set data.classes: 7 if that is its number of classes"),
        (lambda z: z[:, :1], 3, "width 1"),
        (lambda z: z[:, 0], 3, "set data.classes: 2 if"),
        (lambda z: z[:1, :4], 4, "one row for each image"),
        (lambda z: z.sum(), 4, "one row for each image"),
        (lambda z: z.view(-1, 1, 28, 28).expand(-1, 4, -1, -1), 4, "segmentation"),
        (lambda z: {"out": z.view(-1, 4, 14, 14)}, 4, "segmentation"),
        (lambda z: z[:, :8].view(-1, 4, 2), 4, "not supported"),
        (lambda z: "text", 4, "returned str"),
        (lambda z: {}, 4, "accepted: logits"),
    ],
)
def test_outputs_refused(shape, classes, part):
    with pytest.raises(UserError) as caught:
        Teacher(Out(shape), classes=classes, shape=(1, 28, 28))
    assert part in str(caught.value)
    assert "returned" in str(caught.value) or f"data.classes {classes}" in str(caught.value)


@pytest.mark.parametrize(
    ("mean", "std"), [((0.5,), (0.0,)), ((0.5,) * 2, (1.0,) * 2), ((0.5,), (1.0,) * 3), ((), ())]
)
def test_normalize_refused(mean, std):
    with pytest.raises(UserError, match=r"teacher\.normalize"):
        Teacher(
            Out(lambda z: z[:, :4]),
            classes=4,
            shape=(3, 32, 32),
            normalize=Normalize(mean=mean, std=std),
        )


def save(model: nn.Module, path: Path, kind: str) -> Path:
    state, x = model.state_dict(), torch.rand(2, 3, 32, 32)
    if kind == "safetensors":
        save_file(state, path)
    elif kind == "script":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.jit.trace(model, x).save(str(path))
    elif kind == "export":
        batch = ({0: torch.export.Dim.AUTO},)
        torch.export.save(torch.export.export(model, (x,), dynamic_shapes=batch), path)
    else:
        prefix = kind if kind.endswith(".") else ""
        state = {prefix + k: v for k, v in state.items()}
        torch.save({kind: state, "epoch": 3} if kind in ("state_dict", "model") else state, path)
    return path


@pytest.mark.parametrize(
    ("kind", "ending"),
    [
        ("plain", "pth"),
        ("state_dict", "pt"),
        ("model", "pt"),
        ("module.", "pt"),
        ("_orig_mod.module.", "pt"),
        ("_module.", "pt"),
        ("safetensors", "bin"),
        ("script", "pt"),
        ("script", "ts"),
        ("export", "pt2"),
        ("export", "pt"),
    ],
)
def test_weight_files(small, tmp_path, kind, ending):
    path = save(small, tmp_path / f"w.{ending}", kind)
    model = "not-read" if kind in ("script", "export") else "cnn-small"
    teacher = load_own_teacher(TeacherConfig(model=model, weights=path), RGB)
    with torch.no_grad():
        expected = small(images(RGB) / 255)
    assert torch.allclose(teacher(images(RGB)), expected, atol=1e-5)
    assert not any(p.requires_grad for p in teacher.parameters())


@pytest.mark.parametrize(
    ("wrap", "text"),
    [
        (lambda s: s, ""),
        (lambda s: {"model": {f"module.{k}": v for k, v in s.items()}, "epoch": 3},
         "key 'model', prefix 'module.' removed"),
        (lambda s: {"state_dict": {"model": s}}, "key 'state_dict', key 'model'"),
        (lambda s: {f"_orig_mod.module.{k}": v for k, v in s.items()},
         "prefix '_orig_mod.module.' removed"),
    ],
)  # fmt: skip
def test_unwrapping_is_told(small, tmp_path, wrap, text):
    torch.save(wrap(small.state_dict()), tmp_path / "w.pt")
    config = TeacherConfig(model="cnn-small", weights=tmp_path / "w.pt")
    assert read_own_teacher(config, RGB)[1] == text


@pytest.mark.parametrize("kind", ["plain", "safetensors", "script", "export"])
def test_resnet18_files(resnet, tmp_path, kind):
    path = save(resnet, tmp_path / "w.pt", kind)
    names = {"plain": "torchvision.models:resnet18", "safetensors": "resnet18"}
    config = TeacherConfig(model=names.get(kind, "not-read"), weights=path)
    for facts in (RGB, GREY) if kind == "plain" else (RGB,):
        x = images(facts)
        with torch.no_grad():
            expected = resnet(x.expand(-1, 3, -1, -1) / 255)
        assert torch.allclose(load_own_teacher(config, facts)(x), expected, atol=1e-4)


def test_a_released_student_can_be_a_teacher(tmp_path):
    for name in ("cnn-small", "shufflenet_v2_x0_5"):
        model = build_model(name, RGB.shape, 4).eval()
        save_file(model.state_dict(), tmp_path / "s.safetensors")
        config = TeacherConfig(model=name, weights=tmp_path / "s.safetensors")
        with torch.no_grad():
            expected = model(images(RGB) / 255)
        assert torch.allclose(load_own_teacher(config, RGB)(images(RGB)), expected, atol=1e-5)


@pytest.mark.parametrize("kind", ["plain", "safetensors", "script", "export"])
def test_truncated_weights(small, tmp_path, kind):
    path = save(small, tmp_path / "w.pt", kind)
    whole = path.read_bytes()
    for size in (len(whole) // 2, 100, 5, 0):
        path.write_bytes(whole[:size])
        refuse(TeacherConfig(model="cnn-small", weights=path), "teacher.weights", "w.pt")


def test_weights_refused(small, tmp_path):
    path = tmp_path / "w.pt"
    config = TeacherConfig(model="cnn-small", weights=path)
    refuse(config, "no file", str(path))
    refuse(TeacherConfig(model="cnn-small"), "teacher.weights: missing")
    torch.save(small, path)
    whole = "w.pt is unreadable (it holds an object dpsd.models.networks.ConvNet and not tensors"
    refuse(config, whole, "save model.state_dict() alone); accepted: state dict")
    for content in ("def build():\n    return None\n", "# a comment\n", "\x89HDF"):
        path.write_text(content)
        refuse(config, "w.pt is unreadable (it is no checkpoint, or damaged); accepted: state")
    path.write_bytes(b"")
    refuse(config, "w.pt is unreadable (it is empty or cut); accepted: state dict")
    torch.save([1, 2], path)
    refuse(config, "holds a list")
    state = small.state_dict()
    torch.save(
        {k: v for k, v in state.items() if "body.4" not in k} | {"x.y": state["head.bias"]}, path
    )
    refuse(config, "missing (body.4.weight)", "1 unexpected (x.y)")
    torch.save(build_model("cnn-small", RGB.shape, 9).state_dict(), path)
    refuse(config, "head.bias is [9] in the file and [4]", "data.classes")
    torch.save({k: v for k, v in state.items() if "num_batches" not in k}, path)
    assert load_own_teacher(config, RGB)(images(RGB)).shape == (6, 4)


def test_fixed_batch_size_is_explained(small, tmp_path):
    path = tmp_path / "fixed.pt2"
    torch.export.save(torch.export.export(small, (torch.rand(1, 3, 32, 32),)), path)
    refuse(TeacherConfig(weights=path), "batch size is dynamic")


class Moody(nn.Module):
    def __init__(self, mood: str) -> None:
        super().__init__()
        self.mood = mood

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        z = x.flatten(1)[:, :4] * 3
        if self.mood == "determinism":
            return z + torch.rand_like(z)
        if self.mood == "batch independence":
            return nn.functional.batch_norm(z, None, None, training=True)
        if self.mood == "finite":
            return z / (z > 1)
        if self.mood == "one class":
            return z + torch.tensor([1e4, 0, 0, 0])
        if self.mood == "probabilities":
            return z.softmax(1)
        if self.mood == "raises" and len(x) > 2:
            raise RuntimeError("out of\nmemory")
        return z


@pytest.mark.parametrize(
    ("mood", "row", "part"),
    [
        ("fine", None, ""),
        ("determinism", "determinism", "differ"),
        ("batch independence", "batch independence", "batch norm"),
        ("finite", "finite", "NaN"),
        ("one class", "confidence", "teacher.normalize"),
        ("probabilities", "confidence", "Return logits"),
        ("raises", "output", "out of memory"),
    ],
)
def test_check_teacher(mood, row, part, tiny_images):
    teacher = Teacher(Moody(mood), classes=4, shape=GREY.shape)
    table = check_teacher(teacher, GREY, tiny_images)
    failed = {name: message for name, ok, message in table if not ok}
    assert (row in failed and part in failed[row]) if row else not failed
    if row != "output":
        assert [name for name, _, _ in table][-1] == "speed"
