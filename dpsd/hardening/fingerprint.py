"""A fingerprint: synthetic images just behind the student's decision boundary; no model is changed.

Cao et al. 2021, "IPGuard". Copies of a model put these points on the same side more often than
models that were trained by themselves. How often the latter do is not known beforehand: it takes
independently trained models to say what a share of equal classes means.
"""

import os
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from dpsd.errors import UserError
from dpsd.files import whole_file
from dpsd.hardening.statistics import model_p_value
from dpsd.hardening.synthetic import Base, answers_of
from dpsd.models.networks import as_input

_STEPS, _STEP = 60, 0.02  # gradient steps, each of this root mean square on pixels from 0 to 1
_HALVINGS = 8


@dataclass(frozen=True)
class Fingerprint:
    """Boundary points.

    Attributes:
        images: uint8 [N, C, H, W].
        labels: int64 [N], the classes that the student gives them.
    """

    images: Tensor
    labels: Tensor


def fingerprint(base: Base, n: int) -> Fingerprint:
    """Boundary points of the student, from its synthetic images.

    Each image moves against the gradient of its margin until the class changes, then half and half
    again towards the boundary. The point on the far side is kept, if it still is there in uint8.

    Args:
        base: student and images.
        n: points wanted; at most.

    Raises:
        UserError: no image reached the boundary.
    """
    start = base.images[:n]
    device = next(base.student.parameters()).device
    x = as_input(start).to(device)
    first = base.labels[:n].to(device)
    moved = x.clone()
    for _ in range(_STEPS):
        margin = _margin(base.student, moved, first)
        inside = margin.detach() > 0
        if not bool(inside.any()):
            break
        step = _gradient(base.student, moved, first)
        size = step.flatten(1).pow(2).mean(1).sqrt().clamp_min(1e-12)[:, None, None, None]
        step = _STEP * step / size * inside[:, None, None, None]
        moved = (moved - step).clamp(0, 1).detach()
    far, near = moved, x
    for _ in range(_HALVINGS):
        middle = (far + near) / 2
        outside = (_margin(base.student, middle, first) <= 0)[:, None, None, None]
        far, near = torch.where(outside, middle, far), torch.where(outside, near, middle)
    images = (far * 255).round().to(torch.uint8).contiguous().cpu()
    labels = answers_of(base.student, images).argmax(1)
    crossed = labels != base.labels[:n]
    if not bool(crossed.any()):
        raise UserError(f"fingerprint: none of {n} images reached the boundary; give more images")
    return Fingerprint(images[crossed], labels[crossed])


def write_points(points: Fingerprint, path: Path) -> None:
    """Keep boundary points as an npz file."""
    with whole_file(path) as partial, partial.open("wb") as f:
        np.savez_compressed(f, images=points.images.numpy(), labels=points.labels.numpy())
        os.chmod(partial, 0o600)


def read_points(path: Path) -> Fingerprint:
    """The inverse of `write_points`.

    Raises:
        UserError: the file is missing or damaged.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            return Fingerprint(torch.from_numpy(file["images"]), torch.from_numpy(file["labels"]))
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as e:
        raise UserError(f"{path}: no readable boundary points ({e})") from e


@torch.no_grad()
def _margin(model: nn.Module, x: Tensor, first: Tensor) -> Tensor:
    """Logit of the first class less the largest of the others: float [B]."""
    return _margin_of(model(x), first)


def _margin_of(logits: Tensor, first: Tensor) -> Tensor:
    others = logits.scatter(1, first[:, None], -torch.inf).amax(1)
    return logits.gather(1, first[:, None])[:, 0] - others


def _gradient(model: nn.Module, x: Tensor, first: Tensor) -> Tensor:
    x = x.clone().requires_grad_(True)
    (gradient,) = torch.autograd.grad(_margin_of(model(x), first).sum(), x)
    return gradient


@dataclass(frozen=True)
class FingerprintTest:
    """Equal classes on the boundary points.

    Attributes:
        equal: points to which the suspect gives the student's class.
        n: points.
        null_equal: the same of each independent model.
        p_value: of `model_p_value`.
    """

    equal: int
    n: int
    null_equal: tuple[int, ...]
    p_value: float


def check_fingerprint(
    suspect: nn.Module, points: Fingerprint, independent: Sequence[nn.Module]
) -> FingerprintTest:
    """Whether a suspect agrees on the points more than independently trained models do.

    Args:
        suspect: float images from 0 to 1 in, logits out.
        points: of the owner's student.
        independent: models that were trained by themselves, on data of the same problem and without
            the student's answers; at least 3. Copies of the student will not do: they are what the
            fingerprint finds.

    Raises:
        UserError: fewer than 3 independent models.
    """

    def equal(model: nn.Module) -> int:
        return int((answers_of(model, points.images).argmax(1) == points.labels).sum())

    null, n = [equal(model) for model in independent], len(points.labels)
    found = equal(suspect)
    return FingerprintTest(found, n, tuple(null), model_p_value(found, n, null))
