"""The frozen wrapper of a teacher: uint8 images in, float32 logits out."""

import contextlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from dpsd.config.sections import Normalize
from dpsd.errors import UserError
from dpsd.imports import brief

Shape = tuple[int, int, int]


def logits_of(out: Any) -> torch.Tensor:
    """The logits in what a model returned: a tensor, `.logits`, a mapping or a tuple."""
    if isinstance(out, Mapping):
        out = out.get("logits", next(iter(out.values()), None))
    out = getattr(out, "logits", out)
    out = out[0] if isinstance(out, tuple | list) and out else out
    if not isinstance(out, torch.Tensor):
        raise UserError(f"teacher.model: returned {type(out).__name__}; accepted: logits [B, K]")
    return out


class Teacher(nn.Module):
    """A frozen model behind one interface: uint8 images in, float32 logits out.

    It normalises images and repeats grey to RGB where the model takes RGB. It reads `.logits`,
    mappings, tuples and binary outputs of one logit (z becomes [0, z]).
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
            in_channels: channels that the model takes; None tries the declared ones, then three.

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
            z = logits_of(self.model((x - self.mean) / self.std))
            if self.classes == 2 and z.shape in ((len(x),), (len(x), 1)):
                z = torch.stack([torch.zeros_like(z), z], 1).flatten(1)
            if z.shape != (len(x), self.classes):
                width = z.shape[1:].numel()
                advice = "it looks like segmentation, which is not supported"
                if z.shape[:1] != (len(x),):
                    advice = "one row for each image is expected, whatever the batch size"
                elif z.ndim <= 2:
                    advice = f"set data.classes: {max(2, width)} if that is its number of classes"
                    advice += "; multi-label is not supported"
                raise UserError(
                    f"teacher.model: output {list(z.shape)} has width {width}; "
                    f"accepted: [{len(x)}, {self.classes}] with data.classes {self.classes}; "
                    f"{advice}"
                )
        return z.float().clone()  # outside of inference mode, so that a loss may use it
