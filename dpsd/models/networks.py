"""Architectures: dpsd's small ones, torchvision's by name, the user's by import path."""

import difflib
import inspect
import math
from typing import Any, Literal

import torch
from torch import Tensor, nn

from dpsd.errors import UserError
from dpsd.imports import brief, import_object, meant
from dpsd.models.dp_networks import DP_MODELS, build_dp_model
from dpsd.models.frozen import Shape, Teacher, logits_of
from dpsd.models.scattering import MAPS, STRIDE, FilterBank, scattering_maps, unit_roots

Norm = Literal["batch", "group"]
OWN = ("cnn", "cnn-small", "cnn-lite", "cnn-tiny", "resnet20", "scatter-bn")


def _group_norm(width: int) -> nn.Module:
    return nn.GroupNorm(math.gcd(8, width), width)


def _pooled(layers: list[nn.Module]) -> list[nn.Module]:
    """Max-pooling before the last ReLU: the same values for a quarter of the ReLU's work."""
    return [*layers[:-1], nn.MaxPool2d(2), layers[-1]]


def _block(width_in: int, width: int, norm: Norm, stride: int = 1) -> list[nn.Module]:
    layer = nn.BatchNorm2d(width) if norm == "batch" else _group_norm(width)
    return [nn.Conv2d(width_in, width, 3, stride, 1, bias=False), layer, nn.ReLU()]


class _Unflattened(nn.Flatten):
    """Leaves maps [B, C, H, W] to `_OverMaps`; printed as the layer whose place it takes."""

    def forward(self, x: Tensor) -> Tensor:
        return x

    def _get_name(self) -> str:
        return "Flatten"


class _OverMaps(nn.Linear):
    """`nn.Linear` on the maps that `nn.Flatten` would flatten, read in their memory order.

    In `channels_last`, only the weights are rearranged. To rearrange the maps, and their gradient,
    costs a step of training up to a sixth of its time. It is printed as the layer that it equals.
    """

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight.unflatten(1, x.shape[1:]).movedim(1, -1).flatten(1)
        return nn.functional.linear(x.movedim(1, -1).flatten(1), weight, self.bias)

    def _get_name(self) -> str:
        return "Linear"


def _coarse(width: int, rows: int, columns: int) -> tuple[nn.Module, int]:
    """Average-pooling of maps to about 7 x 7, and how many values they then have together."""
    # A fixed window: adaptive pooling has no deterministic gradient on a GPU.
    high, wide = -(-rows // 7), -(-columns // 7)
    pool = nn.AvgPool2d((high, wide)) if max(high, wide) > 1 else nn.Identity()
    return pool, width * (rows // high) * (columns // wide)


def _dense(inputs: int, width: int, norm: Norm) -> list[nn.Module]:
    """Maps flattened to `inputs` values, then a linear layer."""
    if norm == "group":  # Opacus has a rule for a record's gradient of `Linear`, not of a subclass
        return [nn.Flatten(), nn.Linear(inputs, width), nn.ReLU()]
    return [_Unflattened(), _OverMaps(inputs, width), nn.ReLU()]


class ConvNet(nn.Module):
    """Convolutions at full, half and quarter size, then a linear head.

    Input float [B, C, H, W] from 0 to 1; logits [B, K].
    """

    def __init__(self, shape: Shape, classes: int, *, small: bool, norm: Norm) -> None:
        super().__init__()
        channels, height, width = shape
        a, b, c = (16, 32, 64) if small else (32, 64, 128)
        body = _pooled(_block(channels, a, norm)) + _block(a, b, norm)
        body += [] if small else _block(b, b, norm)
        body = _pooled(body) + _block(b, c, norm)
        body += [] if small else _block(c, c, norm)
        rows, columns = height // 4, width // 4
        if small:
            pool, inputs = _coarse(c, rows, columns)
            tail = [pool, *_dense(inputs, 128, norm)]
        else:
            tail = [nn.AvgPool2d((rows, columns)), nn.Flatten(), nn.Dropout(0.3)]
        self.body = nn.Sequential(*body, *tail)
        self.head = nn.Linear(128 if small else c, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits [B, K]."""
        out: torch.Tensor = self.head(self.body((x - 0.5) / 0.5))
        return out


class LiteNet(ConvNet):
    """Three convolutions, of which two pool before they normalise, and two linear layers.

    Interface of `ConvNet`; a step of training takes about two thirds of `cnn-small`'s time.
    """

    def __init__(self, shape: Shape, classes: int, *, norm: Norm) -> None:
        nn.Module.__init__(self)
        channels, height, width = shape
        first, second = _block(channels, 16, norm), _block(16, 32, norm)
        for block in (first, second):
            block.insert(1, nn.MaxPool2d(2))
        pool, inputs = _coarse(32, height // 4, width // 4)
        self.body = nn.Sequential(
            *first, *second, *_block(32, 32, norm), pool, *_dense(inputs, 128, norm)
        )
        self.head = nn.Linear(128, classes)


class TinyNet(ConvNet):
    """Two convolutions with group normalisation and a linear head: for the smallest shards.

    Interface of `ConvNet`; about 29,000 parameters for 28 x 28 grey images and ten classes.
    """

    def __init__(self, shape: Shape, classes: int) -> None:
        nn.Module.__init__(self)
        channels, height, width = shape
        self.body = nn.Sequential(
            nn.Conv2d(channels, 16, 5, 2, 2, bias=False), _group_norm(16), nn.ReLU(),
            nn.Conv2d(16, 32, 3, 1, 1, bias=False), nn.MaxPool2d(2), _group_norm(32), nn.ReLU(),
            nn.Flatten(),
        )  # fmt: skip
        self.head = nn.Linear(32 * ((height + 1) // 4) * ((width + 1) // 4), classes)


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
    """A torchvision model behind the interface of `ConvNet`; grey images are repeated to RGB."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits [B, K] of float images [B, 1 or 3, H, W] from 0 to 1."""
        return logits_of(self.net((x.expand(-1, 3, -1, -1) - 0.5) / 0.5))


class ScatterBn(nn.Module):
    """One linear layer on normalised unit roots of scattering coefficients.

    `scatter-linear` teachers compute functions of this kind, so that it learns their plurality
    from synthetic images with little loss. It takes images as `ConvNet` does, from 5 pixels a side.
    """

    def __init__(self, shape: Shape, classes: int, *, norm: Norm) -> None:
        super().__init__()
        flat = shape[0] * MAPS * (shape[1] // STRIDE) * (shape[2] // STRIDE)
        self.filters = FilterBank(*shape[1:])
        batch = norm == "batch"
        self.norm = nn.BatchNorm1d(flat, affine=False) if batch else nn.GroupNorm(1, flat)
        self.head = nn.Linear(flat, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits [B, K]."""
        roots = unit_roots(scattering_maps(x, self.filters).flatten(1))
        if self.training and len(x) == 1 and isinstance(self.norm, nn.BatchNorm1d):
            # One row has no batch statistics, so the running ones are used.
            mean, variance = self.norm.running_mean, self.norm.running_var
            roots = nn.functional.batch_norm(roots, mean, variance, eps=self.norm.eps)
        else:
            roots = self.norm(roots)
        out: torch.Tensor = self.head(roots)
        return out


def logits_and_features(model: nn.Module, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits [B, K] and the input of the last linear layer, [B, D]; without one, the logits twice.

    Args:
        model: images in, logits out.
        x: float [B, C, H, W] from 0 to 1.
    """
    linear = [m for m in model.modules() if isinstance(m, nn.Linear)]
    if not linear:
        logits = model(x)
        return logits, logits
    seen: list[torch.Tensor] = []
    hook = linear[-1].register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    try:
        logits = model(x)
    finally:
        hook.remove()
    return logits, seen[0].flatten(1)


def build_model(name: str, shape: Shape, classes: int, *, norm: Norm = "batch") -> nn.Module:
    """A fresh model: float images [B, C, H, W] from 0 to 1 in, logits [B, classes] out.

    Args:
        name: cnn | cnn-small | cnn-lite | cnn-tiny | resnet20 | scatter-bn | scatter-linear |
            scatter-public | cnn-tanh | a torchvision model | `package.module:callable`, which is
            called with the
            number of classes where it takes one.
        shape: channels, height, width.
        classes: number of classes.
        norm: `group` keeps the examples of a batch apart; ensembles and DP-SGD need it.

    Raises:
        UserError: an unknown name, or a model that cannot take such images.
    """
    if name in OWN:
        least = 5 if name == "scatter-bn" else 4
        if min(shape[1:]) < least:
            raise UserError(
                f"data.shape: {list(shape)}; {name} needs images of at least {least}x{least}"
            )
        if name == "scatter-bn":
            return ScatterBn(shape, classes, norm=norm)
        if name == "resnet20":
            return ResNet20(shape, classes, norm=norm)
        if name == "cnn-lite":
            return LiteNet(shape, classes, norm=norm)
        if name == "cnn-tiny":
            return TinyNet(shape, classes)
        return ConvNet(shape, classes, small=name == "cnn-small", norm=norm)
    if name in DP_MODELS:
        return build_dp_model(name, shape, classes)
    if ":" in name:
        model = call_factory(name, classes)
        if not isinstance(model, nn.Module):
            raise UserError(f"model: {name} gave {type(model).__name__}; accepted: an nn.Module")
    else:
        model = Backbone(torchvision_model(name, classes, norm))
    try:
        Teacher(model, classes=classes, shape=shape, in_channels=shape[0])  # a dry run
    except UserError as e:
        raise UserError(str(e).replace("teacher.model", f"model {name}")) from e
    ready: nn.Module = model.train().requires_grad_(True)
    return ready


def call_factory(path: str, classes: int) -> Any:
    """The result of the callable at an import path, which gets the number of classes if it can.

    A module at that path is returned as it is.

    Raises:
        UserError: the callable raised something.
    """
    factory = import_object(path)
    if isinstance(factory, nn.Module):
        return factory
    try:
        parameters = inspect.signature(factory).parameters.values()
        named = [p.name for p in parameters if p.name in ("classes", "num_classes")]
        if named or getattr(factory, "__module__", "").startswith("torchvision."):
            return factory(**{named[0] if named else "num_classes": classes})
        required = [p for p in parameters if p.kind < p.VAR_POSITIONAL and p.default is p.empty]
        return factory(classes) if required else factory()
    except Exception as e:
        raise UserError(f"model: {path} raised {brief(e)}") from e


def torchvision_model(name: str, classes: int, norm: Norm = "batch") -> nn.Module:
    """An untrained torchvision model by name.

    Raises:
        UserError: an unknown name, or a model that needs batch norm where `norm` is group.
    """
    import torchvision  # takes seconds, which a client's short process should not wait

    known = torchvision.models.list_models(module=torchvision.models)
    if name not in known:
        near = ", ".join(difflib.get_close_matches(name, [*OWN, *known]))
        raise UserError(
            f"model: {name!r} is unknown; nearest: {near or 'none'}; accepted: {', '.join(OWN)}, "
            f"a torchvision model, package.module:callable{meant(name)}"
        )
    extra = {"norm_layer": _group_norm} if norm == "group" else {}
    try:
        net: nn.Module = torchvision.models.get_model(
            name, weights=None, num_classes=classes, **extra
        )
    except TypeError as e:
        raise UserError(f"model: {name} cannot do without batch norm ({brief(e)})") from e
    return net


def as_input(images: Tensor) -> Tensor:
    """uint8 [B, C, H, W] -> float32 in [0, 1], channels last."""
    return images.to(torch.float32, memory_format=torch.channels_last).div_(255)
