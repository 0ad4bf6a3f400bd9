"""Write the student as a file that runs without dpsd, checked before it is handed over."""

import contextlib
import importlib.util
import io
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from dpsd.config import load_config
from dpsd.errors import UserError
from dpsd.files import whole_file
from dpsd.imports import brief
from dpsd.runs.folder import Run
from dpsd.runs.release import load_student, release_folder

_TOLERANCE = 1e-4
_SUFFIX = {"torch": ".pt2", "onnx": ".onnx"}


def export(
    run: Path | str | Run, format: Literal["torch", "onnx"], out: Path | None = None
) -> Path:
    """Write the student as a file that runs without dpsd, checked before it is handed over.

    The file maps float32 images [B, C, H, W] in [0, 1] to logits float32 [B, K], for any B. The
    written file is loaded and compared with the student on random images, alone and in a batch.

    Args:
        run: a run, its folder, or a release folder by itself.
        format: `torch` (a `torch.export` program) or `onnx` (needs `pip install dpsd[onnx]`).
        out: default `student.pt2` or `student.onnx` beside the release folder. The sealed
            contents of that folder do not change.

    Returns:
        The file.

    Raises:
        UserError: an unknown format, a missing package, a model that cannot be exported, or a file
            that does not give the student's logits. No file is left then.
    """
    if format not in _SUFFIX:
        raise UserError(f"format: {format!r}; accepted: {', '.join(_SUFFIX)}")
    if format == "onnx":
        need_onnx()
    release = release_folder(run)
    model = load_student(release)
    shape = load_config(release / "config.yaml").facts.shape
    out = out or release.absolute().parent / f"student{_SUFFIX[format]}"
    write, read = (_write_torch, _read_torch) if format == "torch" else (write_onnx, _read_onnx)
    with whole_file(out, _SUFFIX[format]) as partial:
        try:
            write(model, torch.zeros(2, *shape), partial)
            exported = read(partial)
        except Exception as e:
            raise UserError(f"export {format}: the student cannot be exported ({brief(e)})") from e
        _compare(model, exported, shape, format)
    return out


def need_onnx() -> None:
    """Check that ONNX files can be written and run.

    Raises:
        UserError: a package is missing.
    """
    for name in ("onnx", "onnxscript", "onnxruntime"):
        if importlib.util.find_spec(name) is None:
            raise UserError(f"export onnx: {name} is not installed; pip install dpsd[onnx]")
    # onnxruntime reads this on import. Without it, its checks of the file report to its maker.
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")


def _write_torch(model: nn.Module, images: Tensor, path: Path) -> None:
    program = torch.export.export(model, (images,), dynamic_shapes=({0: torch.export.Dim("B")},))
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # holds paths of this machine
    with path.open("wb") as f:
        torch.export.save(program, f)


def _read_torch(path: Path) -> Callable[[Tensor], Tensor]:
    return cast(Callable[[Tensor], Tensor], torch.export.load(path).module())


def write_onnx(
    model: nn.Module, images: Tensor, path: Path, outputs: Sequence[str] = ("logits",)
) -> None:
    """Write a module as an ONNX file for any number of images.

    Args:
        model: from float32 images to one tensor for each output.
        images: float32 [2, C, H, W], an example.
        path: of the file.
        outputs: names.
    """
    import onnx

    with contextlib.redirect_stdout(io.StringIO()):  # the exporter reports its progress there
        program: Any = torch.onnx.export(
            model, (images,), dynamo=True, verbose=False, input_names=["images"],
            output_names=list(outputs), dynamic_shapes=({0: torch.export.Dim("B")},),
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
