"""Classifiers for DP-SGD: activations are bounded, and no layer mixes the rows of a batch."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from dpsd.data.rows import Images
from dpsd.errors import UserError
from dpsd.models.frozen import Shape
from dpsd.models.public_features import PublicNet
from dpsd.models.scattering import MAPS, STRIDE, FilterBank, scattering_maps

DP_MODELS = ("scatter-linear", "scatter-public", "cnn-tanh")

_MAPS_IN_GROUP = 3  # normalised together, within one image
_CHUNK = 1024


class ScatterNet(nn.Module):
    """A linear layer on normalised scattering maps.

    The maps are normalised in groups of three within each image, without trained parameters, so
    that only the head's weights depend on the data (Tramèr and Boneh, arXiv 2011.11660, section
    3.1; the groups of 27 there are 27 groups of three here).

    Args:
        shape: channels, height, width; height and width from 8.
        classes: number of classes.
    """

    def __init__(self, shape: Shape, classes: int) -> None:
        super().__init__()
        maps, height, width = shape[0] * MAPS, shape[1] // STRIDE, shape[2] // STRIDE
        self.filters = FilterBank(*shape[1:])
        self.norm = nn.GroupNorm(maps // _MAPS_IN_GROUP, maps, affine=False)
        self.head = nn.Linear(maps * height * width, classes)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def inputs(self, x: Tensor) -> Tensor:
        """What the head reads, a fixed function of each image.

        Args:
            x: float [B, C, H, W] from 0 to 1.

        Returns:
            float32 [B, C * 81 * (H // 4) * (W // 4)].
        """
        maps: Tensor = self.norm(scattering_maps(x, self.filters))
        return maps.flatten(1)

    def forward(self, x: Tensor) -> Tensor:
        """Logits [B, K]."""
        logits: Tensor = self.head(self.inputs(x))
        return logits


_ON_FEATURES = (ScatterNet, PublicNet)  # a linear head on fixed features


class TanhNet(nn.Module):
    """Two tanh convolutions on the image (Papernot et al., arXiv 2007.14191, table 1)."""

    def __init__(self, shape: Shape, classes: int) -> None:
        super().__init__()
        body = nn.Sequential(
            nn.Conv2d(shape[0], 16, 8, stride=2, padding=3), nn.Tanh(), nn.MaxPool2d(2, 1),
            nn.Conv2d(16, 32, 4, stride=2), nn.Tanh(), nn.MaxPool2d(2, 1), nn.Flatten(),
        )  # fmt: skip
        width = body(torch.zeros(1, *shape)).shape[1]
        self.head = nn.Sequential(body, nn.Linear(width, 32), nn.Tanh(), nn.Linear(32, classes))

    def forward(self, x: Tensor) -> Tensor:
        """Logits [B, K] of float images [B, C, H, W] from 0 to 1."""
        logits: Tensor = self.head((x - 0.5) / 0.5)
        return logits


def build_dp_model(name: str, shape: Shape, classes: int) -> nn.Module:
    """A fresh model of `DP_MODELS`: float images [B, C, H, W] from 0 to 1 in, logits out.

    Raises:
        UserError: images that are too small for it.
    """
    least = 20 if name == "cnn-tanh" else 12
    if min(shape[1:]) < least:
        raise UserError(
            f"data.shape: {list(shape)}; {name} needs images of at least {least}x{least}"
        )
    if name == "cnn-tanh":
        return TanhNet(shape, classes)
    if name == "scatter-public":
        return PublicNet(shape, classes)
    return ScatterNet(shape, classes)


def trainable_part(model: nn.Module) -> nn.Module:
    """The part that DP-SGD trains: the head on fixed features, or the whole model."""
    return model.head if isinstance(model, _ON_FEATURES) else model


def fixed_inputs(model: nn.Module, images: Images) -> tuple[Images, Callable[[Tensor], Tensor]]:
    """What the trainable part reads, computed once where the images are in memory.

    Each row depends on its own image alone, so that DP-SGD may sample rows of it for images.

    Args:
        model: from `build_model`.
        images: uint8 [N, C, H, W], in memory or on disk.

    Returns:
        N rows, and a function that makes the trainable part's input of B of them. For a head on
        fixed features the rows are its float16 features, or the images where they are on disk: then
        the features, which take more room, are computed whenever a row is drawn. Otherwise the rows
        are the images themselves.
    """
    if not isinstance(model, _ON_FEATURES):
        return images, _as_float
    device = next(model.parameters()).device

    @torch.inference_mode()
    def features(chunk: Tensor) -> Tensor:
        parts = [model.inputs(x.to(device).float() / 255).half() for x in chunk.split(_CHUNK)]
        return torch.cat(parts)

    if not isinstance(images, Tensor):
        return images, lambda x: features(x).float()
    parts = [features(x).cpu() for x in images.split(_CHUNK)]
    return torch.cat(parts), _as_float


def _as_float(x: Tensor) -> Tensor:
    return x.float() / 255 if x.dtype == torch.uint8 else x.float()
