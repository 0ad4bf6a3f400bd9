"""Images of a request: npy, JSON with base64, or PNG and JPEG files. Sizes come before decoding."""

import base64
import binascii
import io
import json
import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.lib import format as npy
from PIL import Image
from torch import Tensor

from dpsd.models.frozen import Shape

NPY = "application/x-npy"
_HEADER = 1_000  # bytes of an npy header, at most
_PREFIX = {b"\x01": 2, b"\x02": 4}  # major version -> bytes of the header's length


class BadRequest(Exception):
    """What a client sent and cannot be answered; becomes JSON with a code.

    Attributes:
        status: of HTTP.
        code: for programs.
    """

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status, self.code = status, code


@dataclass(frozen=True)
class Sizes:
    """What is accepted.

    Attributes:
        shape: channels, height, width of the model.
        images: in one request.
        pixels: of a picture, and of all pictures of a request.
    """

    shape: Shape
    images: int
    pixels: int


@lru_cache(maxsize=256)
def _header(head: bytes) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape, whether in Fortran order, and type; clients send the same few again and again."""
    file = io.BytesIO(head)
    version = npy.read_magic(file)
    read = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}[version]
    shape, fortran, dtype = read(file, max_header_size=_HEADER)
    return shape, fortran, dtype


def read_npy(body: bytes, sizes: Sizes) -> Tensor:
    """uint8 [B, C, H, W] of an npy file; no pickle is read, and the header is looked at first.

    Raises:
        BadRequest: another array, a damaged file, or too many images.
    """
    try:
        size = _PREFIX[body[6:7]]
        length = 8 + size + int.from_bytes(body[8 : 8 + size], "little")
        if length > _HEADER:
            raise ValueError(f"a header of {length:,} bytes")
        shape, fortran, dtype = _header(body[:length])
    except Exception as e:  # numpy's parser of headers raises what its tokenizer does
        raise BadRequest(400, "bad_npy", f"not a readable npy array ({_short(e)})") from e
    if dtype != np.uint8 or len(shape) != 4 or tuple(shape[1:]) != sizes.shape or fortran:
        raise BadRequest(400, "bad_shape", f"array {dtype} {list(shape)}; {_accepted(sizes)}")
    _check_count(shape[0], sizes)
    pixels = body[length:]
    if len(pixels) != math.prod(shape):
        raise BadRequest(400, "bad_npy", f"{len(pixels)} bytes of pixels for {list(shape)}")
    return torch.from_numpy(np.frombuffer(pixels, np.uint8).reshape(shape).copy())


def read_json(body: bytes, sizes: Sizes) -> Tensor:
    """uint8 [B, C, H, W] of `{"images": [base64 of a PNG or JPEG file, ...]}`.

    Raises:
        BadRequest: other JSON, or pictures that are not accepted.
    """
    try:
        tree: Any = json.loads(body)
        texts = tree["images"]
        if not isinstance(texts, list) or not all(isinstance(t, str) for t in texts):
            raise TypeError("images is no list of strings")
        files = [base64.b64decode(text, validate=True) for text in texts]
    except (ValueError, TypeError, KeyError, RecursionError, binascii.Error) as e:
        text = f'{_short(e)}; accepted: {{"images": [base64 of PNG or JPEG files]}}'
        raise BadRequest(400, "bad_json", text) from e
    return read_pictures(files, sizes)


def read_pictures(files: list[bytes], sizes: Sizes) -> Tensor:
    """uint8 [B, C, H, W] of PNG or JPEG files, in the model's size or resized to it.

    Raises:
        BadRequest: no, too many, too large or unreadable pictures.
    """
    if sizes.shape[0] not in (1, 3):
        raise BadRequest(415, "no_pictures", f"the model takes {sizes.shape[0]} channels: send npy")
    _check_count(len(files), sizes)
    opened, total = [], 0
    for file in files:
        try:
            picture = Image.open(io.BytesIO(file), formats=("PNG", "JPEG"))
        except Exception as e:
            raise BadRequest(400, "bad_picture", "a file is no readable PNG or JPEG") from e
        total += picture.width * picture.height
        if total > sizes.pixels:
            text = f"more than {sizes.pixels:,} pixels"
            raise BadRequest(413, "too_many_pixels", text)
        opened.append(picture)
    return torch.stack([_pixels(picture, sizes.shape) for picture in opened])


def _pixels(picture: Image.Image, shape: Shape) -> Tensor:
    channels, height, width = shape
    try:
        mode = picture.convert("L" if channels == 1 else "RGB")
        if mode.size != (width, height):
            mode = mode.resize((width, height), Image.Resampling.BILINEAR)
    except Exception as e:
        raise BadRequest(400, "bad_picture", "a picture cannot be decoded") from e
    array = np.asarray(mode, np.uint8).reshape(height, width, -1)
    return torch.from_numpy(array.copy()).permute(2, 0, 1).contiguous()


def _check_count(count: int, sizes: Sizes) -> None:
    if not 1 <= count <= sizes.images:
        text = f"{count} images; accepted: 1 to {sizes.images} in a request"
        raise BadRequest(413 if count else 400, "bad_count", text)


def _accepted(sizes: Sizes) -> str:
    return f"accepted: uint8 [B, {', '.join(map(str, sizes.shape))}]"


def _short(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:100]}"
