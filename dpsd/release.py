"""What a release is good for without its private part: the student, samples, exports."""

import contextlib
import importlib.util
import io
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, cast

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from dpsd.config import load_config
from dpsd.data import public_facts
from dpsd.device import pick_device
from dpsd.errors import UserError
from dpsd.generator.synthesizer import Synthesizer
from dpsd.imports import brief
from dpsd.models import build_model
from dpsd.run import Run
from dpsd.student import as_input

_CHUNK = 10_000
_PREDICT_BATCH = 512
_TOLERANCE = 1e-4
_SUFFIX = {"torch": ".pt2", "onnx": ".onnx"}


def load_student(run: Path | str | Run) -> nn.Module:
    """The released student, on the CPU and in evaluation mode.

    Reads `student.safetensors` of the release alone. A student whose model is an import path is
    imported, so load those only from people whom you would let run code.

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
    device, facts = pick_device("auto"), public_facts(config.data)
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
    with _whole(out) as partial, partial.open("wb") as f:
        np.savez(
            f,
            images=images.numpy(),
            labels=probabilities.argmax(1).numpy(),
            probabilities=probabilities.numpy(),
        )


def export(
    run: Path | str | Run, format: Literal["torch", "onnx"], out: Path | None = None
) -> Path:
    """Write the student as a file that runs without dpsd, checked before it is handed over.

    The file maps float32 images [B, C, H, W] in [0, 1] to logits float32 [B, K], for any B. It is
    loaded again and compared with the student on random images, alone and in a batch.

    Args:
        run: a run, its folder, or a release folder by itself.
        format: `torch` (a `torch.export` program) or `onnx` (needs `pip install dpsd[onnx]`).
        out: default `student.pt2` or `student.onnx` beside the release folder, whose sealed
            contents stay as they are.

    Returns:
        The file.

    Raises:
        UserError: an unknown format, a missing package, a model that cannot be exported, or a file
            that does not give the student's logits. Nothing is left then.
    """
    if format not in _SUFFIX:
        raise UserError(f"format: {format!r}; accepted: {', '.join(_SUFFIX)}")
    if format == "onnx":
        _need_onnx()
    release = release_folder(run)
    model = load_student(release)
    shape = public_facts(load_config(release / "config.yaml").data).shape
    out = out or release.absolute().parent / f"student{_SUFFIX[format]}"
    write, read = (_write_torch, _read_torch) if format == "torch" else (_write_onnx, _read_onnx)
    with _whole(out, _SUFFIX[format]) as partial:
        try:
            write(model, torch.zeros(2, *shape), partial)
            exported = read(partial)
        except Exception as e:
            raise UserError(f"export {format}: the student cannot be exported ({brief(e)})") from e
        _compare(model, exported, shape, format)
    return out


def release_folder(run: Path | str | Run) -> Path:
    """The release folder of a run, of a run's folder, or of itself.

    Raises:
        UserError: none there, or the run has not finished.
    """
    path = run.release if isinstance(run, Run) else Path(run)
    for folder in (path, path / "release"):
        if (folder / "student.safetensors").is_file():
            return folder
    raise UserError(f"{path}: no finished run or release folder (student.safetensors is missing)")


class Labeller:
    """A released student as the synthesizer wants one: probabilities of uint8 images."""

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


@contextmanager
def _whole(out: Path, suffix: str = "") -> Iterator[Path]:
    """A temporary name beside `out` that becomes `out` on success and vanishes on any error."""
    partial = out.with_name(f".{out.name}.partial{suffix}")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        yield partial
        os.replace(partial, out)
    except OSError as e:
        raise UserError(f"{out}: cannot be written ({brief(e)})") from e
    finally:
        with contextlib.suppress(OSError):
            partial.unlink()


def _need_onnx() -> None:
    for name in ("onnx", "onnxscript", "onnxruntime"):
        if importlib.util.find_spec(name) is None:
            raise UserError(f"export onnx: {name} is not installed; pip install dpsd[onnx]")
    # Read when it is loaded: without this, its checks of the file report to its maker.
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")


def _write_torch(model: nn.Module, images: Tensor, path: Path) -> None:
    program = torch.export.export(model, (images,), dynamic_shapes=({0: torch.export.Dim("B")},))
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # holds paths of this machine
    with path.open("wb") as f:
        torch.export.save(program, f)


def _read_torch(path: Path) -> Callable[[Tensor], Tensor]:
    return cast(Callable[[Tensor], Tensor], torch.export.load(path).module())


def _write_onnx(model: nn.Module, images: Tensor, path: Path) -> None:
    import onnx

    with contextlib.redirect_stdout(io.StringIO()):  # the exporter reports its progress there
        program: Any = torch.onnx.export(
            model, (images,), dynamo=True, verbose=False, input_names=["images"],
            output_names=["logits"], dynamic_shapes=({0: torch.export.Dim("B")},),
        )  # fmt: skip
    proto = program.model_proto
    for part in (proto.graph, *proto.graph.node, *proto.functions):
        part.ClearField("metadata_props")  # holds paths of this machine
    onnx.save(proto, path)


def _read_onnx(path: Path) -> Callable[[Tensor], Tensor]:
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])

    def run(images: Tensor) -> Tensor:
        return torch.from_numpy(session.run(["logits"], {"images": images.numpy()})[0])

    return run


def _compare(
    model: nn.Module,
    exported: Callable[[Tensor], Tensor],
    shape: tuple[int, int, int],
    format: str,
) -> None:
    rng = torch.Generator().manual_seed(0)
    for rows in (1, 5):
        images = torch.rand(rows, *shape, generator=rng)
        with torch.inference_mode():
            wanted = model(images)
            try:
                found = exported(images)
            except Exception as e:
                raise UserError(
                    f"export {format}: fails on {rows} random image(s) ({brief(e)})"
                ) from e
        gap = float((wanted - found).abs().max()) if found.shape == wanted.shape else float("inf")
        if not gap <= _TOLERANCE * (1 + float(wanted.abs().max())):
            raise UserError(
                f"export {format}: the file's logits differ from the student's by {gap:.2g} on "
                f"{rows} random image(s); nothing was written"
            )
