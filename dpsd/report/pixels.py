"""Small pictures of images: strips of a few, side by side, in the images' own pixels."""

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Images = NDArray[np.uint8]
"""uint8 [n, C, H, W]."""


def strip(images: Images, n: int) -> bytes:
    """A PNG of the first `n` images beside each other; places without an image are clear.

    Args:
        images: uint8 [at most or more than n, C, H, W]. With C other than 3, the first channel is
            shown.
        n: places.
    """
    height, width = images.shape[2:]
    sheet = np.zeros((height, n * (width + 1) - 1, 4), np.uint8)
    for i, image in enumerate(images[:n]):
        at = slice(i * (width + 1), i * (width + 1) + width)
        colours = image if image.shape[0] == 3 else np.repeat(image[:1], 3, 0)
        sheet[:, at, :3], sheet[:, at, 3] = np.moveaxis(colours, 0, -1), 255
    return png(sheet)


def png(pixels: Any) -> bytes:
    """A PNG of uint8 pixels [H, W], [H, W, 3] or [H, W, 4]."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", optimize=True)
    return file.getvalue()


def tiles(sheet: bytes, shape: Sequence[int]) -> Images:
    """The images of a sheet that `dpsd.runs.pictures.grid` laid out, uint8 [n, C, H, W].

    Args:
        sheet: a PNG.
        shape: C, H, W of an image; a sheet shows one channel or three.
    """
    pixels = np.asarray(Image.open(io.BytesIO(sheet)).convert("L" if shape[0] != 3 else "RGB"))
    pixels = pixels[:, :, None] if pixels.ndim == 2 else pixels
    height, width = shape[1:]
    found = [
        pixels[y : y + height, x : x + width]
        for y in range(1, pixels.shape[0] - height, height + 1)
        for x in range(1, pixels.shape[1] - width, width + 1)
    ]
    filled = [np.moveaxis(tile, -1, 0) for tile in found if not (tile == 128).all()]
    empty = np.zeros((0, pixels.shape[2], height, width), np.uint8)
    return np.stack(filled) if filled else empty
