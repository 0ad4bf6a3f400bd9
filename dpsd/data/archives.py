"""Archives of arrays: npz files, whole in memory or mapped from the disk."""

import struct
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from numpy.typing import NDArray

from dpsd.data.rows import DiskRows, fits_in_memory
from dpsd.device import available_bytes
from dpsd.errors import UserError
from dpsd.imports import brief

Array = NDArray[Any]

_LOCAL_HEADER = struct.Struct("<26x2H")  # of a zip member: its name and extra field follow
_HEADERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


def read_npz(path: Path) -> dict[str, Array]:
    """All arrays of an archive.

    Arrays that do not fit in memory are mapped from the disk where `numpy.savez` wrote them. Those
    of `numpy.savez_compressed` cannot be mapped, so they are read whole. A mapped array's checksum
    is not verified.

    Raises:
        UserError: no such file, a damaged one, or compressed arrays larger than the free memory.
    """
    if not path.is_file():
        hint = "looked for in data.root, else $DPSD_DATA, else data/"
        raise UserError(f"data.root: no file {path.absolute()}; {hint}")
    try:
        mapped, need = _mapped(path)
        if need > (free := available_bytes()):
            raise UserError(
                f"{path}: {need / 2**30:.1f} GiB of arrays are compressed, so they must be read "
                f"whole, and {free / 2**30:.1f} GiB are free; write them with numpy.savez, from "
                "which they are mapped"
            )
        with np.load(path, allow_pickle=False) as archive:
            return {key: mapped[key] if key in mapped else archive[key] for key in archive.files}
    except UserError:
        raise
    except Exception as e:
        raise UserError(f"{path}: not a readable npz archive ({brief(e)})") from e


def _mapped(path: Path) -> tuple[dict[str, Array], int]:
    """The large arrays that can be mapped, and the bytes of all others."""
    arrays, rest = dict[str, Array](), 0
    with zipfile.ZipFile(path) as archive, path.open("rb") as file:
        for info in archive.infolist():
            array = None
            if info.compress_type == zipfile.ZIP_STORED and not fits_in_memory(info.file_size):
                array = _map(path, file, info.header_offset)
            if array is None:
                rest += info.file_size
            else:
                arrays[info.filename.removesuffix(".npy")] = array
    return arrays, rest


def _map(path: Path, file: BinaryIO, header: int) -> Array | None:
    """The array of an uncompressed member, read-only; None if it is none of plain numbers."""
    file.seek(header)
    name, extra = _LOCAL_HEADER.unpack(file.read(_LOCAL_HEADER.size))
    file.seek(name + extra, 1)
    read_header = _HEADERS.get(np.lib.format.read_magic(file))
    if read_header is None:
        return None
    shape, fortran, dtype = read_header(file)
    if dtype.hasobject:
        return None
    array: Array = np.memmap(
        path, dtype, mode="r", offset=file.tell(), shape=shape, order="F" if fortran else "C"
    )
    return array


def is_mapped(array: Array) -> bool:
    """Whether an array lies on disk."""
    base: object = array
    while isinstance(base, np.ndarray):
        if isinstance(base, np.memmap):
            return True
        base = base.base
    return False


@dataclass(frozen=True, eq=False)
class Mapped:
    """An array on disk, [N, C, H, W]: uint8, or floats from 0 to 1."""

    images: Array

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height, width."""
        channels, height, width = self.images.shape[1:]
        return channels, height, width

    def read(self, number: int) -> NDArray[np.uint8]:
        """One image, uint8 [C, H, W]."""
        return as_pixels(self.images[number])

    def mark(self, number: int) -> bytes:
        """The pixels themselves, which need no decoding."""
        return self.read(number).tobytes()


def mapped_rows(images: Array) -> DiskRows:
    """All rows of an array on disk."""
    return DiskRows(Mapped(images), torch.arange(len(images)))


def as_pixels(images: Array) -> NDArray[np.uint8]:
    """Pixel values 0 to 255 of uint8 images, or of floats from 0 to 1."""
    if images.dtype == np.uint8:
        return images
    return np.rint(images.astype(np.float32) * 255).astype(np.uint8)
