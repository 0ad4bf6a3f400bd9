"""Labelled pictures to measure on, where there is no data set: nothing of them is trained on."""

from pathlib import Path

from dpsd.config import PublicFacts
from dpsd.data import sources
from dpsd.data.archives import read_npz
from dpsd.data.folders import read_image_folder
from dpsd.data.load import Split, as_split
from dpsd.errors import UserError


def read_labelled(path: Path, facts: PublicFacts) -> Split:
    """The labelled rows of a folder or an npz file; test rows alone where it has several splits.

    Args:
        path: a folder with a folder for each class (or `test` with these), in alphabetical order,
            or an npz file with `images` and `labels`, or `test_images` and `test_labels`.
        facts: shape and classes of the model.

    Raises:
        UserError: neither, other classes, or images of another shape.
    """
    rows: sources.Rows
    if path.is_dir():
        part = path / "test" if (path / "test").is_dir() else path
        rows, _ = read_image_folder(part, facts.shape, facts.classes, None)
    elif path.is_file():
        rows = sources.as_rows(read_npz(path), str(path))
    else:
        raise UserError(f"--rows: {path}: no such file; accepted: a folder with a folder for each "
                        "class, or an npz file with images and labels")  # fmt: skip
    return as_split(rows, facts, str(path))
