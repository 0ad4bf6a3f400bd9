"""The releases that a run keeps: paid answers that survive a crash."""

from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import Tensor

from dpsd.errors import UserError
from dpsd.files import sync, whole_file
from dpsd.imports import brief
from dpsd.privacy.mechanisms.base import Answers


def keep_release(folder: Path, position: int, images: Tensor, answers: Answers) -> None:
    """Write a release and its images whole or not at all. A power cut does not lose them."""
    tensors = {"images": images, "values": answers.values, "support": answers.support,
               "size": answers.size, "prior": answers.prior}  # fmt: skip
    path = release_file(folder, position)
    with whole_file(path) as partial:
        save_file({k: v.contiguous() for k, v in tensors.items() if v is not None}, partial)
        sync(partial)
    sync(folder)


def load_release(folder: Path, position: int) -> tuple[Tensor, Answers]:
    """Images and answers kept at a position of the run.

    Raises:
        UserError: no release was kept there, or it is damaged.
    """
    path = release_file(folder, position)
    if not path.exists():
        raise UserError(f"{path}: no kept release at answer {position}")
    try:
        t = load_file(path)
    except Exception as e:
        raise UserError(
            f"{path}: damaged ({brief(e)}); restore it, or remove it to go on without these "
            "answers, which stay paid"
        ) from e
    return t["images"], Answers(t["values"], t.get("support"), t.get("size"), t.get("prior"))


def recall_release(folder: Path | None, position: int) -> tuple[Tensor, Answers] | None:
    """Images and answers kept at a position of the run; None if none were kept."""
    if folder is None or not release_file(folder, position).exists():
        return None
    return load_release(folder, position)


def release_file(folder: Path, position: int) -> Path:
    """Where the release at a position of the run is kept."""
    return folder / f"{position:012d}.safetensors"
