"""What a release gives without the private part of its run: the student, labels, samples."""

import json
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from dpsd.config import load_config
from dpsd.device import pick_device
from dpsd.errors import UserError
from dpsd.files import whole_file
from dpsd.generator.synthesizer import Synthesizer
from dpsd.imports import brief
from dpsd.models.networks import as_input, build_model
from dpsd.runs.folder import Run

_CHUNK = 10_000
_PREDICT_BATCH = 512


def load_student(run: Path | str | Run) -> nn.Module:
    """The released student, on the CPU and in evaluation mode.

    Reads `student.safetensors` of the release alone. A model that is named by an import path is
    imported: load such a student only from people whom you would let run code.

    Args:
        run: a run, its folder, or a release folder by itself.

    Returns:
        A module from float32 images [B, C, H, W] in [0, 1] to logits float32 [B, K].

    Raises:
        UserError: no release there, a damaged file, or weights that do not fit the model.
    """
    path = release_folder(run) / "student.safetensors"
    try:
        with safe_open(path, "pt") as file:
            facts = json.loads(file.metadata()["dpsd"])
        channels, height, width = map(int, facts["shape"])
        name, classes, state = facts["model"], int(facts["classes"]), load_file(path)
    except Exception as e:
        raise UserError(f"{path}: no readable student ({brief(e)})") from e
    model = build_model(name, (channels, height, width), classes)
    _load(model, state, path)
    return model.eval().requires_grad_(False)


def sample(run: Path | str | Run, n: int, out: Path) -> None:
    """Write labelled synthetic data: images of the synthesizer, labels of the student.

    Both come from the release alone. The images are drawn from random streams that no training
    round used.

    Args:
        run: a run, its folder, or a release folder by itself.
        n: number of images.
        out: npz file with `images` uint8 [n, C, H, W], `labels` int64 [n] (the student's class)
            and `probabilities` float32 [n, K]. Written whole or not at all.

    Raises:
        UserError: n below 1, no release, or a file that cannot be written.
    """
    import numpy as np

    if n < 1:
        raise UserError(f"n: {n}; accepted: from 1")
    release = release_folder(run)
    config = load_config(release / "config.yaml")
    device, facts = pick_device("auto"), config.facts
    labeller = Labeller(load_student(release), device)
    synthesizer = Synthesizer(config, facts, device)
    if synthesizer.adversarial is not None:
        path = release / "generator.safetensors"
        _load(synthesizer.adversarial.model, _read_state(path), path)
    images = torch.empty((n, *facts.shape), dtype=torch.uint8)
    for i, part in enumerate(images.split(_CHUNK)):
        # Training rounds count from 0 up; samples have the streams below.
        part.copy_(synthesizer.sample(len(part), labeller, round=-1 - i))
    probabilities = labeller.predict(images)
    with whole_file(out) as partial, partial.open("wb") as f:
        np.savez(
            f,
            images=images.numpy(),
            labels=probabilities.argmax(1).numpy(),
            probabilities=probabilities.numpy(),
        )


def release_folder(run: Path | str | Run) -> Path:
    """The release folder of a run, of a run's folder, or of itself.

    Raises:
        UserError: no release is there, or the run has not finished.
    """
    path = run.release if isinstance(run, Run) else Path(run)
    for folder in (path, path / "release"):
        if (folder / "student.safetensors").is_file():
            return folder
    raise UserError(f"{path}: no finished run or release folder (student.safetensors is missing)")


class Labeller:
    """A released student in the form that the synthesizer needs: probabilities of uint8 images."""

    def __init__(self, model: nn.Module, device: torch.device) -> None:
        self.model, self.device = model.to(device), device

    @torch.inference_mode()
    def predict(self, images: Tensor) -> Tensor:
        """Probabilities float32 [B, K] on the CPU of uint8 images [B, C, H, W]."""
        parts = [self.model(as_input(x.to(self.device))) for x in images.split(_PREDICT_BATCH)]
        return torch.cat([logits.float().softmax(1).cpu() for logits in parts])


def _read_state(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except Exception as e:
        raise UserError(f"{path}: unreadable ({brief(e)})") from e


def _load(model: nn.Module, state: dict[str, Tensor], path: Path) -> None:
    try:
        model.load_state_dict(state)
    except RuntimeError as e:
        raise UserError(f"{path}: does not fit the model ({brief(e)})") from e
