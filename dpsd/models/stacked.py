"""Many networks of one architecture, computed at once: weights are stacked on dimension 0."""

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dpsd.models.networks import ConvNet


def stack(models: list[ConvNet]) -> dict[str, Tensor]:
    """The parameters of G networks, each [G, *shape], by the names of a state dict."""
    states = [model.state_dict() for model in models]
    return {name: torch.stack([state[name] for state in states]) for name in states[0]}


def stacked_logits(
    net: ConvNet, parameters: Mapping[str, Tensor], images: Tensor, dtype: torch.dtype
) -> Tensor:
    """Logits of G networks, as in training mode but without dropout.

    Args:
        net: the architecture; its own parameters are not read.
        parameters: as from `stack`.
        images: float from 0 to 1; [B, C, H, W] for all networks alike or [G, B, C, H, W].
        dtype: of the arithmetic.

    Returns:
        `dtype` [G, B, K].
    """
    count = len(next(iter(parameters.values())))
    shared = images.ndim == 4
    if not shared:
        images = images.transpose(0, 1).flatten(1, 2)
    x = ((images - 0.5) / 0.5).to(dtype)
    x = x.contiguous(memory_format=torch.channels_last)
    for name, layer in net.body.named_children():
        own = {
            part: parameters[f"body.{name}.{part}"].to(dtype)
            for part, _ in layer.named_parameters(recurse=False)
        }
        x = _apply(layer, own, x, count, shared)
        shared = shared and not isinstance(layer, nn.Conv2d)
    head = (parameters[f"head.{part}"].to(dtype) for part in ("weight", "bias"))
    return _linear(x, *head)


def group_norm(x: Tensor, groups: int, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """The values of `torch.nn.functional.group_norm`, faster (Wu and He 2018, equation 1).

    Args:
        x: float [B, C, H, W].
        groups: divides C; each example's group of channels has its own mean and variance.
        weight: [C].
        bias: [C].
        eps: added to the variance.

    Returns:
        As `x`, stored channels last.
    """
    out: Tensor = _GroupNorm.apply(
        x.contiguous(memory_format=torch.channels_last), groups, weight, bias, eps
    )
    return out


def _apply(
    layer: nn.Module, own: Mapping[str, Tensor], x: Tensor, count: int, shared: bool
) -> Tensor:
    if isinstance(layer, nn.Conv2d):
        kernel = own["weight"].flatten(0, 1)
        groups = 1 if shared else count
        return F.conv2d(x, kernel, None, layer.stride, layer.padding, groups=groups)
    if isinstance(layer, nn.GroupNorm):
        weight, bias = own["weight"].flatten(), own["bias"].flatten()
        return group_norm(x, count * layer.num_groups, weight, bias, layer.eps)
    if isinstance(layer, nn.Flatten):
        flat: Tensor = x.unflatten(1, (count, -1)).flatten(2).transpose(0, 1)
        return flat
    if isinstance(layer, nn.Linear):
        return _linear(x, own["weight"], own["bias"])
    if isinstance(layer, nn.Dropout):  # too few steps on too few records to need it
        return x
    if isinstance(layer, nn.ReLU | nn.MaxPool2d | nn.AvgPool2d | nn.Identity):
        out: Tensor = layer(x)
        return out
    raise TypeError(f"{type(layer).__name__} has no stacked form")


def _linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return torch.baddbmm(bias[:, None], x, weight.mT)


class _GroupNorm(torch.autograd.Function):
    """Sums over pixels are products with a vector of ones; all else happens on [B, C]."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, groups: int, weight: Tensor, bias: Tensor, eps: float
    ) -> Tensor:
        size = x[0].numel() // groups
        mean = _over_groups(_over_pixels(x), groups) / size
        square = _over_groups(_over_pixels(x.square()), groups) / size
        scale = torch.rsqrt((square - mean.square()).clamp_min(0) + eps)
        slope = scale * weight.float()
        ctx.save_for_backward(x, mean, scale, weight)
        ctx.groups = groups
        return _line(x, slope, bias.float() - mean * slope)

    @staticmethod
    def backward(ctx: Any, *given: Tensor) -> tuple[Tensor | None, ...]:
        x, mean, scale, weight = ctx.saved_tensors
        slope_in = given[0].contiguous(memory_format=torch.channels_last)
        size = x[0].numel() // ctx.groups
        total, along = _over_pixels(slope_in), _over_pixels(slope_in * x)
        along = scale * (along - mean * total)  # sum of gradient times normalised value
        pull = _over_groups(along * weight.float(), ctx.groups) / size
        push = _over_groups(total * weight.float(), ctx.groups) / size
        back = -scale * scale * pull
        out = _line(x, back, -scale * push - mean * back)
        out = torch.addcmul(out, slope_in, _cell(scale * weight.float(), x))
        return out, None, along.sum(0).to(weight.dtype), total.sum(0).to(weight.dtype), None


def _over_pixels(x: Tensor) -> Tensor:
    """[B, C, H, W] -> float32 [B, C]."""
    pixels = x.permute(0, 2, 3, 1).flatten(1, 2)
    ones = torch.ones(len(x), 1, pixels.shape[1], dtype=x.dtype, device=x.device)
    return torch.bmm(ones, pixels)[:, 0].float()


def _over_groups(x: Tensor, groups: int) -> Tensor:
    """Sums over the channels of a group, repeated for each of them: [B, C] -> [B, C]."""
    sums = x.unflatten(1, (groups, -1)).sum(2, keepdim=True)
    repeated: Tensor = sums.expand(-1, -1, x.shape[1] // groups).flatten(1)
    return repeated


def _line(x: Tensor, slope: Tensor, intercept: Tensor) -> Tensor:
    return torch.addcmul(_cell(intercept, x), x, _cell(slope, x))


def _cell(values: Tensor, x: Tensor) -> Tensor:
    cell: Tensor = values.to(x.dtype)[:, :, None, None]
    return cell
