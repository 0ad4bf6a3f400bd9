"""What a release gives without the private part of its run: the student, its labels."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from dpsd.config import PublicFacts, load_config
from dpsd.data.photographs import with_folder_hash
from dpsd.data.rows import Images
from dpsd.device import rows_at_once
from dpsd.errors import UserError
from dpsd.generator.synthesizer import Synthesizer
from dpsd.imports import brief
from dpsd.models.networks import as_input, build_model
from dpsd.runs.folder import Run, open_run


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
    return read_student(release_folder(run) / "student.safetensors")[0]


def student_header(model: str, facts: PublicFacts) -> dict[str, Any]:
    """What the header of a student's weights says, so that the file is enough to load it."""
    return {"model": model, "shape": list(facts.shape), "classes": facts.classes}


def read_student(path: Path) -> tuple[nn.Module, dict[str, Any]]:
    """The student of one file, as `load_student` gives it, and the facts of the file's header.

    The facts are those of `student_header`, and what else was written there.

    Raises:
        UserError: as `load_student`.
    """
    try:
        with safe_open(path, "pt") as file:
            facts = json.loads(file.metadata()["dpsd"])
        channels, height, width = map(int, facts["shape"])
        name, classes, state = facts["model"], int(facts["classes"]), load_file(path)
    except Exception as e:
        raise UserError(f"{path}: no readable student ({brief(e)})") from e
    model = build_model(name, (channels, height, width), classes)
    _load(model, state, path)
    return model.eval().requires_grad_(False), facts


def released_synthesizer(
    run: Path | str | Run, device: torch.device, select: int | None = None
) -> Synthesizer:
    """The synthesizer of a release, with the released weights of its trainable generator, if any.

    Photographs are those of the run, where the release lies in one; otherwise they are looked for
    by name in the working directory. They must have the hashes that the statement lists.

    Args:
        run: a run, its folder, or a release folder by itself.
        device: of the trainable generator.
        select: instead of `generator.select` of the run.

    Raises:
        UserError: no release is there, weights that cannot be read or do not fit, or photographs
            or a public folder that are not at hand or have changed.
    """
    release = release_folder(run)
    config = load_config(release / "config.yaml")
    generator = config.generator
    if generator.photographs is not None and (release.parent / "private" / "run.json").is_file():
        photographs = open_run(release.parent).config.generator.photographs
        generator = generator.model_copy(update={"photographs": photographs})
    if select is not None:
        generator = generator.model_copy(update={"select": select})
    config = config.model_copy(update={"generator": with_folder_hash(generator)})
    synthesizer = Synthesizer(config, config.facts, device)
    if synthesizer.adversarial is not None:
        path = release / "generator.safetensors"
        _load(synthesizer.adversarial.model, _read_state(path), path)
    return synthesizer


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
    def predict(self, images: Images) -> Tensor:
        """Probabilities float32 [B, K] on the CPU of uint8 images [B, C, H, W]."""
        batches = images.split(rows_at_once(tuple(images.shape[1:])))
        parts = [self.model(as_input(x.to(self.device))) for x in batches]
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
