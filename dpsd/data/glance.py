"""What can be seen of data at a place: the shape of an image, classes, rows."""

from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from dpsd.data.archives import read_npz
from dpsd.data.folders import Shape, training_files
from dpsd.data.sources import as_tables

_LOOKED_AT = 20


@dataclass(frozen=True)
class Glance:
    """What was seen; `shape` is None where the images have several."""

    shape: Shape | None
    classes: int
    rows: int


def glance(place: Path) -> Glance | None:
    """Look at an npz file, or at a folder with a folder for each class.

    Args:
        place: of the training data, as `data.root` names them.

    Returns:
        None where nothing is there, or nothing that can be counted so, as tar shards.

    Raises:
        UserError: a damaged npz file, or one that lacks images or labels.
    """
    if place.is_file() and place.suffix == ".npz":
        (images, labels), _ = as_tables(read_npz(place), str(place))
        return Glance(_of_array(images.shape), int(labels.max(initial=0)) + 1, len(labels))
    if not place.is_dir():
        return None
    base, names = training_files(place)
    if not names:
        return None
    sizes = {_of_file(base / name) for name in names[:: max(1, len(names) // _LOOKED_AT)]}
    shape = sizes.pop() if len(sizes) == 1 else None
    return Glance(shape, len({Path(name).parts[0] for name in names}), len(names))


def _of_array(shape: tuple[int, ...]) -> Shape | None:
    """[N, H, W], [N, C, H, W] or [N, H, W, C]."""
    if len(shape) == 3:
        return 1, shape[1], shape[2]
    if len(shape) != 4:
        return None
    last = shape[1] not in (1, 3) and shape[3] in (1, 3)
    return (shape[3], shape[1], shape[2]) if last else (shape[1], shape[2], shape[3])


def _of_file(path: Path) -> Shape | None:
    try:
        with Image.open(path) as image:
            return 1 if image.mode in ("1", "L") else 3, image.height, image.width
    except OSError:
        return None
