"""Large npz archives: mapped from the disk where they can be."""

import numpy as np
import pytest
import torch

from dpsd.config.sections import DataConfig
from dpsd.data import archives, rows
from dpsd.data.archives import is_mapped, read_npz
from dpsd.data.load import load_data
from dpsd.data.rows import DiskRows
from dpsd.errors import UserError


@pytest.fixture
def arrays():
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (30, 6, 5, 3), dtype=np.uint8), np.arange(30) % 3


@pytest.fixture(autouse=True)
def bound(monkeypatch):
    monkeypatch.setattr(rows, "IN_MEMORY_BYTES", 1000)


def loaded(path):
    return load_data(DataConfig(name="npz", root=path, classes=3, shape=(3, 6, 5)))


@pytest.mark.parametrize("layout", ["hwc", "chw", "fortran", "float"])
def test_uncompressed_arrays_are_mapped(tmp_path, arrays, layout):
    x, y = arrays
    given = {
        "hwc": x,
        "chw": np.ascontiguousarray(np.moveaxis(x, 3, 1)),
        "fortran": np.asfortranarray(x),
        "float": (x / 255).astype(np.float64),
    }[layout]
    np.savez(tmp_path / "d.npz", x=given, y=y, test_x=given[:5], test_y=y[:5])
    found = read_npz(tmp_path / "d.npz")
    assert is_mapped(found["x"]) and not is_mapped(found["y"]) and not is_mapped(x[3:])
    data = loaded(tmp_path / "d.npz")
    assert isinstance(data.train.images, DiskRows) and data.train.images.shape == (27, 3, 6, 5)
    wanted = torch.from_numpy(np.moveaxis(x, 3, 1).copy())
    assert torch.equal(data.train.images[:], wanted[:27])
    assert torch.equal(data.holdout.images[:], wanted[27:])
    assert torch.equal(data.test.images[:], wanted[:5])


def test_compressed_arrays_are_read_whole_if_they_fit(tmp_path, arrays, monkeypatch):
    x, y = arrays
    np.savez_compressed(tmp_path / "d.npz", x=x, y=y)
    data = loaded(tmp_path / "d.npz")
    assert isinstance(data.train.images, torch.Tensor)
    assert torch.equal(data.train.images, torch.from_numpy(np.moveaxis(x, 3, 1).copy())[:27])
    monkeypatch.setattr(archives, "available_bytes", lambda: 2000)
    with pytest.raises(UserError, match=r"d.npz: 0.0 GiB of arrays are compressed.* numpy.savez"):
        loaded(tmp_path / "d.npz")
    np.savez(tmp_path / "d.npz", x=x, y=y)
    assert len(loaded(tmp_path / "d.npz").train) == 27


def test_bad_values_are_refused_as_in_memory(tmp_path, arrays):
    x, y = arrays
    np.savez(tmp_path / "d.npz", x=x.astype(np.float32), y=y)
    with pytest.raises(UserError, match="float32 from 0 to 255"):
        loaded(tmp_path / "d.npz")
    np.savez(tmp_path / "d.npz", x=np.array([{}] * 3000), y=y)
    with pytest.raises(UserError, match="allow_pickle"):
        loaded(tmp_path / "d.npz")


def test_a_mapped_archive_can_be_cut_by_class(tmp_path, arrays):
    """Training rows are mapped, and the few test rows are in memory."""
    x, y = arrays
    np.savez(tmp_path / "d.npz", x=x, y=y, test_x=x[:6] // 2, test_y=y[:6])
    split = {"private": [0, 1], "public": [2], "train": [[0, 20]], "holdout": [[20, 30]],
             "test": [[30, 36]]}  # fmt: skip
    config = DataConfig(name="npz", root=tmp_path / "d.npz", classes=3, shape=(3, 6, 5),
                        split=split)  # fmt: skip
    data = load_data(config)
    wanted = torch.from_numpy(np.moveaxis(x[:6] // 2, 3, 1)[y[:6] < 2].copy())
    assert torch.equal(data.test.images[:], wanted) and data.test.labels.tolist() == [0, 1] * 2
