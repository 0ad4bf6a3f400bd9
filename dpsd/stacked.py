"""Many networks of one architecture at once: grouped convolutions, one group a network.

It computes what `torch.func.vmap` over stacked parameters does. No operation mixes two groups, so
that one network's values, also NaN, never reach another.
"""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dpsd.groupnorm import group_norm
from dpsd.models import ConvNet


def stack(models: list[ConvNet]) -> dict[str, Tensor]:
    """The parameters of G networks, each [G, *shape], by the names of a state dict."""
    states = [model.state_dict() for model in models]
    return {name: torch.stack([state[name] for state in states]) for name in states[0]}


def stacked_logits(
    net: ConvNet, parameters: Mapping[str, Tensor], images: Tensor, dtype: torch.dtype
) -> Tensor:
    """Logits of G networks, in training mode less dropout.

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
    if isinstance(layer, nn.Dropout):  # shards are small and their steps few
        return x
    if isinstance(layer, nn.ReLU | nn.MaxPool2d | nn.AvgPool2d | nn.Identity):
        out: Tensor = layer(x)
        return out
    raise TypeError(f"{type(layer).__name__} has no stacked form")


def _linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return torch.baddbmm(bias[:, None], x, weight.mT)
