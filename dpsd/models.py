"""Architectures, the user's own teachers, and the frozen wrapper that the oracle asks."""

import contextlib
import difflib
import importlib
import inspect
import math
import os
import re
import sys
import time
import warnings
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
import torchvision
from safetensors.torch import load_file
from torch import nn

from dpsd.config import Normalize, TeacherConfig
from dpsd.errors import UserError

if TYPE_CHECKING:
    from dpsd.data import PublicFacts

Norm = Literal["batch", "group"]
Shape = tuple[int, int, int]


def _group_norm(width: int) -> nn.Module:
    return nn.GroupNorm(math.gcd(8, width), width)


def _block(width_in: int, width: int, norm: Norm, stride: int = 1) -> list[nn.Module]:
    layer = nn.BatchNorm2d(width) if norm == "batch" else _group_norm(width)
    return [nn.Conv2d(width_in, width, 3, stride, 1, bias=False), layer, nn.ReLU()]


class ConvNet(nn.Module):
    """Convolutions at full, half and quarter size, then a linear head.

    Input float [B, C, H, W] from 0 to 1; `features` gives [B, D], `forward` logits [B, K].
    """

    def __init__(self, shape: Shape, classes: int, *, small: bool, norm: Norm) -> None:
        super().__init__()
        channels, height, width = shape
        a, b, c = (16, 32, 64) if small else (32, 64, 128)
        body = [*_block(channels, a, norm), nn.MaxPool2d(2), *_block(a, b, norm)]
        body += [] if small else _block(b, b, norm)
        body += [nn.MaxPool2d(2), *_block(b, c, norm)]
        body += [] if small else _block(c, c, norm)
        # A fixed window: adaptive pooling has no deterministic gradient on a GPU.
        rows, columns = height // 4, width // 4
        window = (-(-rows // 7), -(-columns // 7)) if small else (rows, columns)
        body += [nn.AvgPool2d(window), nn.Flatten()]
        flat = c * (rows // window[0]) * (columns // window[1])
        head = [nn.Linear(flat, 128), nn.ReLU()] if small else [nn.Dropout(0.3)]
        self.body = nn.Sequential(*body, *head)
        self.head = nn.Linear(128 if small else flat, classes)

    def features(self, x: torch.Tensor) -> torch.Tensor:
        """The activations before the last layer, [B, D]."""
        out: torch.Tensor = self.body((x - 0.5) / 0.5)
        return out

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits [B, K]."""
        out: torch.Tensor = self.head(self.features(x))
        return out


class _Residual(nn.Module):
    def __init__(self, width_in: int, width: int, stride: int, norm: Norm) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *_block(width_in, width, norm, stride), *_block(width, width, norm)[:2]
        )
        self.stride, self.extra = stride, width - width_in

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        skip = x[:, :, :: self.stride, :: self.stride]
        skip = nn.functional.pad(skip, (0, 0, 0, 0, 0, self.extra))
        return torch.relu(self.body(x) + skip)


class ResNet20(ConvNet):
    """The CIFAR ResNet-20 (He et al. 2016, section 4.2), with shortcuts that have no parameters."""

    def __init__(self, shape: Shape, classes: int, *, norm: Norm) -> None:
        nn.Module.__init__(self)
        layers, width_in = _block(shape[0], 16, norm), 16
        for width in (16, 32, 64):
            for i in range(3):
                stride = 2 if i == 0 and width != 16 else 1
                layers.append(_Residual(width_in, width, stride, norm))
                width_in = width
        window = (-(-shape[1] // 4), -(-shape[2] // 4))
        self.body = nn.Sequential(*layers, nn.AvgPool2d(window), nn.Flatten())
        self.head = nn.Linear(64, classes)


class Backbone(nn.Module):
    """A torchvision model behind the interface of the own ones; grey is repeated to RGB."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits [B, K] of float images [B, 1 or 3, H, W] from 0 to 1."""
        return _logits_of(self.net((x.expand(-1, 3, -1, -1) - 0.5) / 0.5))

    def features(self, x: torch.Tensor) -> torch.Tensor:
        """What the last linear layer reads, [B, D]; the logits where there is none."""
        linear = [m for m in self.net.modules() if isinstance(m, nn.Linear)]
        if not linear:
            return self.forward(x)
        seen: list[torch.Tensor] = []
        hook = linear[-1].register_forward_pre_hook(lambda _, args: seen.append(args[0]))
        try:
            self(x)
        finally:
            hook.remove()
        return seen[0].flatten(1)


def build_model(name: str, shape: Shape, classes: int, *, norm: Norm = "batch") -> nn.Module:
    """A fresh model: float images [B, C, H, W] from 0 to 1 in, logits [B, classes] out.

    Args:
        name: cnn | cnn-small | resnet20 | a torchvision model | `package.module:callable`, which
            is called with the number of classes where it takes one.
        shape: channels, height, width.
        classes: number of classes.
        norm: `group` keeps the examples of a batch apart; ensembles and DP-SGD need it.

    Raises:
        UserError: an unknown name, or a model that cannot take such images.
    """
    if name in ("cnn", "cnn-small", "resnet20"):
        if min(shape[1:]) < 4:
            raise UserError(f"data.shape: {list(shape)}; {name} needs images of at least 4x4")
        if name == "resnet20":
            return ResNet20(shape, classes, norm=norm)
        return ConvNet(shape, classes, small=name == "cnn-small", norm=norm)
    if ":" in name:
        model = _call_factory(name, classes)
        if not isinstance(model, nn.Module):
            raise UserError(f"model: {name} gave {type(model).__name__}; accepted: an nn.Module")
    else:
        model = Backbone(_torchvision(name, classes, norm))
    try:
        Teacher(model, classes=classes, shape=shape, in_channels=shape[0])  # a dry run
    except UserError as e:
        raise UserError(str(e).replace("teacher.model", f"model {name}")) from e
    ready: nn.Module = model.train().requires_grad_(True)
    return ready


def import_object(path: str) -> Any:
    """The object named by `package.module:name`; the current folder is importable.

    Raises:
        UserError: the path is malformed, or cannot be imported.
    """
    module_name, _, attribute = path.partition(":")
    if not module_name or not attribute:
        raise UserError(f"import path {path!r}: expected package.module:callable")
    if os.getcwd() not in sys.path and "" not in sys.path:
        sys.path.insert(0, os.getcwd())
    names: list[str] = []
    try:
        found: Any = importlib.import_module(module_name)
        for part in attribute.split("."):
            names = dir(found)
            found = getattr(found, part)
    except AttributeError as e:
        near = ", ".join(difflib.get_close_matches(attribute, names, n=3)) or "nothing similar"
        raise UserError(f"import path {path!r}: {brief(e)}; it has {near}") from e
    except Exception as e:
        raise UserError(f"import path {path!r}: cannot be imported ({brief(e)})") from e
    return found


def brief(error: BaseException) -> str:
    """An exception in one short line."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text:.160}" if text else type(error).__name__


def _call_factory(path: str, classes: int) -> Any:
    found = import_object(path)
    if isinstance(found, nn.Module):
        return found
    try:
        parameters = inspect.signature(found).parameters.values()
        named = [p.name for p in parameters if p.name in ("classes", "num_classes")]
        if named or getattr(found, "__module__", "").startswith("torchvision."):
            return found(**{named[0] if named else "num_classes": classes})
        required = [p for p in parameters if p.kind < p.VAR_POSITIONAL and p.default is p.empty]
        return found(classes) if required else found()
    except Exception as e:
        raise UserError(f"model: {path} raised {brief(e)}") from e


def _torchvision(name: str, classes: int, norm: Norm = "batch") -> nn.Module:
    known = torchvision.models.list_models(module=torchvision.models)
    if name not in known:
        near = ", ".join(difflib.get_close_matches(name, ["cnn", "cnn-small", "resnet20", *known]))
        raise UserError(
            f"model: {name!r} is unknown; nearest: {near or 'none'}; accepted: cnn, cnn-small, "
            "resnet20, a torchvision model, package.module:callable"
        )
    extra = {"norm_layer": _group_norm} if norm == "group" else {}
    try:
        net: nn.Module = torchvision.models.get_model(
            name, weights=None, num_classes=classes, **extra
        )
    except TypeError as e:
        raise UserError(f"model: {name} cannot do without batch norm ({brief(e)})") from e
    return net


def _logits_of(out: Any) -> torch.Tensor:
    if isinstance(out, Mapping):
        out = out.get("logits", next(iter(out.values()), None))
    out = getattr(out, "logits", out)
    out = out[0] if isinstance(out, tuple | list) and out else out
    if not isinstance(out, torch.Tensor):
        raise UserError(f"teacher.model: returned {type(out).__name__}; accepted: logits [B, K]")
    return out


class Teacher(nn.Module):
    """A frozen model behind one interface: uint8 images in, float32 logits out.

    It owns the input normalisation, repeats grey to RGB where the model wants that, and reads
    `.logits`, mappings, tuples and one-logit binary outputs (z becomes [0, z]).
    """

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(
        self,
        model: nn.Module,
        *,
        classes: int,
        shape: Shape,
        normalize: Normalize | None = None,
        in_channels: int | None = None,
    ) -> None:
        """Freeze the model and try it on a black image.

        Args:
            model: takes float images [B, C, H, W] from 0 to 1, after `normalize`.
            classes: the declared number of classes.
            shape: the declared channels, height, width.
            normalize: mean and standard deviation, one entry or one a channel.
            in_channels: channels that the model takes; None finds out by trying.

        Raises:
            UserError: the model does not take such images, or gives no logits [B, classes].
        """
        super().__init__()
        self.model, self.classes, self.shape = model, classes, shape
        for parameter in model.parameters():  # a script module has no requires_grad_
            parameter.requires_grad_(False)
        with contextlib.suppress(NotImplementedError):  # an exported program has one mode
            model.eval()
        self.training = False
        n = normalize or Normalize(mean=(0.0,), std=(1.0,))
        widths = [in_channels] if in_channels else [shape[0], 3][: 2 if shape[0] == 1 else 1]
        if (
            min(n.std, default=0) <= 0
            or len(n.std) != len(n.mean)
            or len(n.std) not in (1, *widths)
        ):
            accepted = f"1 or {widths[-1]} entries each, std above 0"
            raise UserError(f"teacher.normalize: mean {n.mean}, std {n.std}; accepted: {accepted}")
        self.register_buffer("mean", torch.tensor(n.mean)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(n.std)[:, None, None], persistent=False)
        problems = []
        for width in [w for w in widths if len(n.std) in (1, w)]:
            self.in_channels = width
            try:
                self(torch.zeros(2, *shape, dtype=torch.uint8))
                return
            except UserError:
                raise
            except Exception as e:
                problems.append(brief(e))
        raise UserError(
            f"teacher.model: cannot take two images {list(shape)} ({problems[0]}); check "
            "data.shape and, for traced or exported models, that the batch size is dynamic"
        )

    def train(self, mode: bool = True) -> "Teacher":
        """Stay in evaluation mode."""
        return self

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits float32 [B, K] of uint8 images [B, C, H, W], without gradient.

        Raises:
            UserError: wrong dtype or shape of the images, or of what the model returned.
        """
        if images.dtype != torch.uint8 or images.shape[1:] != self.shape:
            given = f"{images.dtype} {list(images.shape)}"
            raise UserError(f"teacher input is {given}; accepted: uint8 [B, *{list(self.shape)}]")
        with torch.inference_mode():
            x = images.to(self.mean.device).float().div_(255)
            x = x.expand(-1, self.in_channels, -1, -1)
            z = _logits_of(self.model((x - self.mean) / self.std))
            if self.classes == 2 and z.shape in ((len(x),), (len(x), 1)):
                z = torch.stack([torch.zeros_like(z), z], 1).flatten(1)
            if z.shape != (len(x), self.classes):
                kind = "segmentation" if z.ndim > 2 else "multi-label or another set of classes"
                raise UserError(
                    f"teacher.model: output {list(z.shape)} has width {z.shape[1:].numel()}; "
                    f"accepted: [{len(x)}, {self.classes}] with data.classes {self.classes} "
                    f"(it looks like {kind}, which is not supported)"
                )
        return z.float().clone()  # outside of inference mode, so that a loss may hold it


def load_own_teacher(config: TeacherConfig, facts: "PublicFacts") -> Teacher:
    """The user's own model: import path, torchvision or own name with weights, or a whole program.

    `weights` may be a state dict (.pt, read with `weights_only`), safetensors, TorchScript or a
    `torch.export` file, told apart by content. The last two need no `model`.

    Raises:
        UserError: a missing or damaged file, names that do not match, or an unfit model.
    """
    path, name = config.weights, config.model
    if path is None:
        if ":" not in name:
            raise UserError(f"teacher.weights: missing; {name} is untrained without them")
        model = _call_factory(name, facts.classes)
        model = model if isinstance(model, nn.Module) or not callable(model) else _Function(model)
    elif not path.is_file():
        raise UserError(f"teacher.weights: no file {path.absolute()}")
    else:
        try:
            program = _read_weights(path)
        except Exception as e:
            hint = "accepted: state dict (.pt), .safetensors, TorchScript, torch.export"
            raise UserError(f"teacher.weights: {path} is unreadable ({brief(e)}); {hint}") from e
        model = program if isinstance(program, nn.Module) else None
        if model is None:
            state = _plain_state(program, path)
            if ":" in name:
                model = _call_factory(name, facts.classes)
            elif name in ("cnn", "cnn-small", "resnet20") or all(k[:4] == "net." for k in state):
                model = build_model(name, facts.shape, facts.classes)
            else:
                model = _torchvision(name, facts.classes)
            if isinstance(model, nn.Module):
                _load(model, state, path)
    if not isinstance(model, nn.Module):
        raise UserError(f"teacher.model: {name} gave {type(model).__name__}; accepted: nn.Module")
    return Teacher(model, classes=facts.classes, shape=facts.shape, normalize=config.normalize)


class _Function(nn.Module):
    def __init__(self, function: Callable[[torch.Tensor], Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: torch.Tensor) -> Any:
        return self.function(x)


def _read_weights(path: Path) -> Any:
    with path.open("rb") as file:
        head = file.read(9)
    if head[8:] == b"{" and int.from_bytes(head[:8], "little") < path.stat().st_size:
        return load_file(path)
    names = zipfile.ZipFile(path).namelist() if zipfile.is_zipfile(path) else []
    if any(
        name.endswith(("/archive_format", "serialized_exported_program.json")) for name in names
    ):
        return torch.export.load(path).module()
    if any(name.endswith("/constants.pkl") for name in names):
        load_script: Callable[..., Any] = torch.jit.load
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # old, but what people have
            return load_script(str(path), map_location="cpu")
    return torch.load(path, map_location="cpu", weights_only=True)


def _plain_state(found: Any, path: Path) -> dict[str, torch.Tensor]:
    for key in ("state_dict", "model_state_dict", "model"):
        if isinstance(found, Mapping) and isinstance(found.get(key), Mapping):
            found = found[key]
    if not isinstance(found, Mapping):
        what = type(found).__name__
        raise UserError(f"teacher.weights: {path} holds a {what}; accepted: a state dict")
    return {str(k): v for k, v in found.items() if isinstance(v, torch.Tensor)}


def _load(model: nn.Module, state: dict[str, torch.Tensor], path: Path) -> None:
    wanted = model.state_dict()
    if not wanted.keys() <= state.keys():
        # Wrappers (DataParallel, torch.compile, Opacus, moving averages) put names in front.
        state = {re.sub(r"^((_orig_mod|_module|module)\.)+", "", k): v for k, v in state.items()}
        state = {k.replace("._orig_mod.", "."): v for k, v in state.items() if k != "n_averaged"}
    missing = [k for k in wanted.keys() - state.keys() if not k.endswith("num_batches_tracked")]
    resized = [k for k in wanted.keys() & state.keys() if wanted[k].shape != state[k].shape]
    problems = {"missing": missing, "unexpected": [*(state.keys() - wanted.keys())]}
    texts = [
        f"{len(names)} {kind} ({', '.join(sorted(names)[:3])}{', ...' if len(names) > 3 else ''})"
        for kind, names in problems.items()
        if names
    ]
    for k in sorted(resized)[:1]:
        given, here = list(state[k].shape), list(wanted[k].shape)
        texts.append(f"{k} is {given} in the file and {here} in the model")
    if texts:
        hint = "check teacher.model and data.classes"
        raise UserError(
            f"teacher.weights: {path} does not fit the model: {'; '.join(texts)}; {hint}"
        )
    model.load_state_dict(state, strict=False)


def check_teacher(
    teacher: Teacher, facts: "PublicFacts", images: torch.Tensor
) -> list[tuple[str, bool, str]]:
    """Try a teacher on uint8 images [B, C, H, W]: rows of name, passed, message. Private.

    A row that fails is a warning, not an error: outputs, finite values, confidence, determinism,
    independence of the rows of a batch, speed.
    """
    try:
        begin = time.perf_counter()
        logits = teacher(images).cpu()
        seconds = time.perf_counter() - begin
    except UserError as e:
        return [("output", False, str(e))]
    except Exception as e:
        return [("output", False, f"the model raised {brief(e)}")]
    rows = [("output", True, f"logits {list(logits.shape)} for {facts.classes} classes")]
    bad = int((~logits.isfinite()).any(1).sum())
    text = f"{bad} of {len(logits)} answers have NaN or infinite values"
    rows.append(("finite", not bad, text if bad else "all values are finite"))
    p = logits.nan_to_num().softmax(1)
    found, top = len(p.argmax(1).unique()), float(p.max(1).values.mean())
    flat = not bad and bool(((logits >= 0) & (logits <= 1)).all())
    text = f"{found} of {facts.classes} classes predicted, mean confidence {top:.4f}"
    if flat:
        text += "; all outputs lie from 0 to 1: probabilities? Return logits"
    elif found == 1 and len(p) > 1:
        text += "; one class alone: check teacher.normalize (mean and std) and grey or RGB"
    elif top > 0.99999:
        text += "; saturated: check teacher.normalize (mean and std)"
    rows.append(("confidence", not (flat or top > 0.99999 or (found == 1 and len(p) > 1)), text))
    again = teacher(images).cpu()
    same = torch.equal(again.nan_to_num(), logits.nan_to_num())
    text = "two calls agree" if same else "two calls differ: dropout or other randomness is on"
    rows.append(("determinism", same, text))
    few = images[: max(1, min(8, len(images) // 2))]
    mates = teacher(torch.cat([few, 255 - few]))[: len(few)].cpu()
    scale = 1 + float(logits.nan_to_num().abs().max())
    gap = float((mates - logits[: len(few)]).nan_to_num().abs().max()) / scale
    text = f"an answer moves by {gap:.1e} (relative) with the rest of its batch"
    if gap > 1e-2:
        text += ": batch norm in training mode? Export the model after .eval()"
    rows.append(("batch independence", gap <= 1e-2, text))
    rows.append(("speed", True, f"{len(images) / max(seconds, 1e-9):.0f} images per second"))
    return rows
