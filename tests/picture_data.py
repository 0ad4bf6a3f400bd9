"""Folders of small pictures, read into memory and from disk."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dpsd.config.sections import DataConfig
from dpsd.data import rows
from dpsd.data.load import PrivateData, load_data

SIZE = 20


def picture_folder(root: Path, classes: int = 2, each: int = 20, tests: int = 0) -> DataConfig:
    """Noisy pictures whose brightness tells the class; no two are alike."""
    rng = np.random.default_rng(0)
    for part, count in (("train", each), ("test", tests)):
        for label in range(classes if count else 0):
            folder = root / part / f"class{label}"
            folder.mkdir(parents=True)
            for i in range(count):
                noise = rng.integers(0, 100, (SIZE, SIZE), dtype=np.uint8)
                pixels = noise + np.uint8(140 * label // max(1, classes - 1))
                Image.fromarray(pixels).save(folder / f"{i}.png")
    return DataConfig(name="image_folder", root=root, classes=classes, shape=(1, SIZE, SIZE))


def stay_on_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on no image is held in memory."""
    monkeypatch.setattr(rows, "IN_MEMORY_BYTES", 0)


def both_ways(
    config: DataConfig, monkeypatch: pytest.MonkeyPatch
) -> tuple[PrivateData, PrivateData]:
    """The data in memory, and the same data on disk."""
    memory = load_data(config)
    with monkeypatch.context() as patch:
        stay_on_disk(patch)
        disk = load_data(config)
    assert isinstance(disk.train.images, rows.DiskRows)
    return memory, disk
