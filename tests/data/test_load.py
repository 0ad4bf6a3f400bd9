"""Data sets as files: what is read, and the one line that says why a file is refused."""

import io
import struct
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dpsd.config import public_facts
from dpsd.config.sections import DataConfig
from dpsd.data.identity import dataset_fingerprint, fingerprint
from dpsd.data.load import PrivateData, Split, load_data, load_public_images
from dpsd.errors import UserError


def refuse(config: DataConfig, *parts: str) -> None:
    with pytest.raises(UserError) as caught:
        load_data(config)
    text = str(caught.value)
    assert "\n" not in text
    for part in parts:
        assert part in text, text


def folder(root: Path, counts: dict[str, int], size: tuple[int, int] = (10, 8)) -> Path:
    for k, (name, count) in enumerate(counts.items()):
        (root / name).mkdir(parents=True)
        for i in range(count):
            pixels = np.full((*size, 3), 40 * k + i, np.uint8)
            Image.fromarray(pixels).save(root / name / f"{i}.png")
    return root


def npz(path: Path, **arrays: object) -> DataConfig:
    np.savez(path, **arrays)
    return DataConfig(name="npz", root=path, classes=3, shape=(1, 6, 5))


def rows(n: int = 30, size: tuple[int, ...] = (6, 5)) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(1)
    return generator.integers(0, 256, (n, *size), dtype=np.uint8), np.arange(n) % 3


@pytest.mark.parametrize(
    ("name", "shape", "classes"),
    [
        ("digits", (1, 28, 28), 10),
        ("mnist", (1, 28, 28), 10),
        ("fashion_mnist", (1, 28, 28), 10),
        ("cifar10", (3, 32, 32), 10),
        ("cifar10_jpeg", (3, 32, 32), 10),
        ("att_faces", (1, 112, 92), 40),
    ],
)
def test_facts_of_named_sets_need_no_files(name, shape, classes, tmp_path):
    facts = public_facts(DataConfig(name=name, root=tmp_path / "nowhere"))
    assert (facts.shape, facts.classes, facts.pixel_range) == (shape, classes, (0, 255))
    assert len(set(facts.class_names)) == classes


@pytest.mark.parametrize(
    ("fields", "part"),
    [
        ({"name": "mnist", "classes": 9}, "data.classes: 9"),
        ({"name": "mnist", "shape": (3, 28, 28)}, "data.shape: [3, 28, 28]"),
        ({"name": "att_faces", "shape": (3, 56, 46)}, "data.shape"),
        ({"name": "mnits"}, "did you mean mnist"),
        ({"name": "npz", "classes": 3}, "data.shape: missing"),
        ({"name": "none", "shape": (1, 8, 8)}, "data.classes: missing"),
        ({"name": "npz", "classes": 3, "shape": (1, 0, 8)}, "data.shape: [1, 0, 8]"),
        ({"name": "image_folder", "classes": 3, "shape": (2, 8, 8)}, "1 (grey) or 3"),
    ],
)
def test_facts_refused(fields, part):
    with pytest.raises(UserError, match=r"^data") as caught:
        public_facts(DataConfig(**fields))
    assert part in str(caught.value)


def test_declared_facts():
    facts = public_facts(DataConfig(name="none", shape=(3, 64, 48), classes=4))
    assert (facts.shape, facts.class_names) == ((3, 64, 48), ("0", "1", "2", "3"))
    assert public_facts(DataConfig(name="att_faces", shape=(1, 56, 46))).shape == (1, 56, 46)
    refuse(DataConfig(name="none", shape=(3, 64, 48), classes=4), "data.name: none")


def test_digits():
    data = load_data(DataConfig())
    assert data.test is not None
    # 1,797 images; a fifth (359) is test, a tenth (143) of the other 1,438 is holdout.
    assert (len(data.train), len(data.holdout), len(data.test)) == (1295, 143, 359)
    for split in (data.train, data.holdout, data.test):
        assert split.images.dtype == torch.uint8 and split.images.shape[1:] == (1, 28, 28)
        assert split.labels.dtype == torch.int64 and set(split.labels.tolist()) == set(range(10))
    assert data.train.images.max() > 240
    again = load_data(DataConfig())
    assert torch.equal(again.train.images, data.train.images)
    assert fingerprint(again) == fingerprint(data)
    data.train.images[0, 0, 0, 0] += 1
    assert fingerprint(again) != fingerprint(data)
    assert dataset_fingerprint(again) != dataset_fingerprint(data)


def test_the_same_rows_are_the_same_data_set_however_they_are_split():
    """By user other rows are held out, and the data set's ledger must be found again."""
    data = load_data(DataConfig())
    order = torch.randperm(len(data.train), generator=torch.Generator().manual_seed(0))
    images, labels = (torch.cat([getattr(data.train, k)[order], getattr(data.holdout, k)])
                      for k in ("images", "labels"))  # fmt: skip
    other = PrivateData(Split(images[:300], labels[:300]), Split(images[300:], labels[300:]), None)
    assert dataset_fingerprint(other) == dataset_fingerprint(data)
    labels[0] += 1
    assert dataset_fingerprint(other) != dataset_fingerprint(data)


@pytest.mark.parametrize("layout", ["hw", "hwc", "chw", "float"])
def test_npz_layouts(tmp_path, layout):
    images, labels = rows()
    given = {
        "hw": images,
        "hwc": images[..., None],
        "chw": images[:, None],
        "float": (images / 255).astype(np.float32),
    }[layout]
    data = load_data(npz(tmp_path / "d.npz", x=given, y=labels))
    assert data.test is None
    assert np.array_equal(data.train.images[:, 0], images[:27])
    assert np.array_equal(data.holdout.images[:, 0], images[27:])
    assert data.holdout.labels.tolist() == [0, 1, 2]


def test_npz_with_test_rows(tmp_path):
    x, y = rows()
    config = npz(tmp_path / "d.npz", images=x, labels=y, test_images=x[:4], test_labels=y[:4])
    test = load_data(config).test
    assert test is not None and np.array_equal(test.images[:, 0], x[:4])
    config = npz(tmp_path / "e.npz", images=x, labels=y, test_images=x[:4])
    refuse(config, "e.npz", "test_labels")


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"y": None}, "no array labels"),
        ({"y": np.arange(29) % 3}, "30 images and 29 labels"),
        ({"y": np.arange(30) % 4}, "accepted: 0 to 2"),
        ({"y": np.arange(30) % 3 - 1}, "-1 to 1"),
        ({"y": np.arange(30) / 30}, "accepted: integers"),
        ({"x": rows()[0].astype(np.int64)}, "int64 from 0 to 255"),
        ({"x": rows()[0].astype(np.float32)}, "float32 from 0 to 255"),
        ({"x": np.full((30, 6, 5), np.nan)}, "nan"),
        ({"x": rows()[0] > 9}, "images are bool"),
        ({"x": rows(30, (5, 6))[0]}, "[1, 5, 6] each, data.shape is [1, 6, 5]"),
        ({"x": rows()[0].reshape(30, 30)}, "[30] each"),
        ({"x": np.empty((0, 6, 5), np.uint8), "y": np.empty(0, np.int64)}, "0 images"),
        ({"x": np.array([{}] * 30)}, "allow_pickle"),
    ],
)
def test_npz_refused(tmp_path, change, part):
    x, y = rows()
    arrays = {k: v for k, v in {"x": x, "y": y, **change}.items() if v is not None}
    refuse(npz(tmp_path / "d.npz", **arrays), str(tmp_path / "d.npz"), part)


def test_npz_missing_truncated_or_damaged(tmp_path):
    x, y = rows()
    config = npz(tmp_path / "d.npz", x=x, y=y)
    whole = (tmp_path / "d.npz").read_bytes()
    for broken in (whole[:200], whole[:-30], b"", b"no archive", whole[:150] + b"?" + whole[151:]):
        (tmp_path / "d.npz").write_bytes(broken)
        refuse(config, str(tmp_path / "d.npz"), "not a readable npz")
    (tmp_path / "d.npz").unlink()
    refuse(config, str(tmp_path / "d.npz"), "DPSD_DATA")
    refuse(DataConfig(name="npz", classes=3, shape=(1, 6, 5)), "data.root: missing")


def test_rows_sorted_by_class_are_warned_about(tmp_path):
    x, y = rows()
    with pytest.warns(UserWarning, match="sorted by class"):
        load_data(npz(tmp_path / "d.npz", x=x, y=np.repeat([0, 1, 2], [14, 13, 3])))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_data(npz(tmp_path / "d.npz", x=x, y=y))


def test_image_folder(tmp_path):
    folder(tmp_path / "train", {"cat": 12, "ant": 10, "bee": 8})
    folder(tmp_path / "test", {"cat": 1, "ant": 2})
    (tmp_path / "train" / "ant" / "notes.txt").write_text("no image")
    config = DataConfig(name="image_folder", root=tmp_path, classes=3, shape=(3, 10, 8))
    data = load_data(config)
    assert data.test is not None
    assert (len(data.train), len(data.holdout), len(data.test)) == (27, 3, 3)
    # Classes in sorted order: ant 0, bee 1, cat 2; cats were written with values from 0.
    assert data.test.labels.tolist() == [0, 0, 2]
    assert data.test.images[:, 0, 0, 0].tolist() == [0 + 40, 41, 0]
    labels = torch.cat([data.train.labels, data.holdout.labels])
    assert labels.bincount().tolist() == [10, 8, 12]
    assert not torch.equal(labels, labels.sort().values)
    values = torch.cat([data.train.images, data.holdout.images])[:, 0, 0, 0]
    assert set((values[labels == 2]).tolist()) == set(range(12))


def test_image_folder_resized_grey_and_without_test(tmp_path):
    folder(tmp_path, {"a": 3, "b": 3}, size=(20, 30))
    Image.new("RGBA", (9, 9), (10, 20, 30, 128)).save(tmp_path / "a" / "z.webp")
    Image.new("P", (9, 9)).save(tmp_path / "b" / "z.gif")
    data = load_data(DataConfig(name="image_folder", root=tmp_path, classes=2, shape=(1, 7, 9)))
    assert data.test is None and data.train.images.shape == (7, 1, 7, 9)


def test_image_folder_refused(tmp_path):
    folder(tmp_path, {"a": 3, "b": 3})
    config = DataConfig(name="image_folder", root=tmp_path, classes=2, shape=(3, 10, 8))
    refuse(config.model_copy(update={"classes": 3}), "data.classes: 3", "2 class folders")
    refuse(config.model_copy(update={"root": tmp_path / "x"}), "data.root", str(tmp_path / "x"))
    buffer = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    Image.fromarray(noise).save(buffer, "JPEG")
    bad = tmp_path / "a" / "bad.jpg"
    for content in (buffer.getvalue()[:400], b"", b"not an image"):
        bad.write_bytes(content)
        refuse(config, str(bad), "not a readable image")
    bad.unlink()
    Image.fromarray(np.full((9, 9), 60000, np.uint16)).save(tmp_path / "a" / "deep.png")
    refuse(config, "deep.png", "8 bits a channel")
    (tmp_path / "a" / "deep.png").unlink()
    for path in (tmp_path / "b").iterdir():
        path.unlink()
    refuse(config, str(tmp_path / "b"), "no images")
    folder(tmp_path / "split" / "train", {"a": 3, "b": 3})
    folder(tmp_path / "split" / "test", {"c": 1})
    refuse(config.model_copy(update={"root": tmp_path / "split"}), "no such class")


def test_public_images(tmp_path):
    facts = public_facts(DataConfig(name="none", shape=(3, 4, 4), classes=2))
    folder(tmp_path, {"a": 2, "b": 1})
    assert load_public_images(tmp_path, facts).shape == (3, 3, 4, 4)
    with pytest.raises(UserError, match="holds no images"):
        load_public_images(tmp_path / "none", facts)


def test_import_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "my_rows_1.py").write_text(
        "import torch\n"
        "x, y = torch.zeros(20, 1, 6, 5, dtype=torch.uint8), torch.arange(20) % 3\n"
        "def pair(): return x, y\n"
        "def table(): return dict(images=x, labels=y, test_images=x[:3], test_labels=y[:3])\n"
        "def wrong(): return 7\n"
        "def broken(): return 1 / 0\n"
    )
    config = DataConfig(name="my_rows_1:pair", classes=3, shape=(1, 6, 5))
    assert load_data(config).test is None
    table = load_data(config.model_copy(update={"name": "my_rows_1:table"}))
    assert table.test is not None and len(table.test) == 3
    for name, part in {
        "my_rows_1:wrong": "returned int",
        "my_rows_1:broken": "ZeroDivisionError",
        "my_rows_1:pare": "pair",
        "my_rows_9:pair": "module my_rows_9 was not found",
        "my_rows_1:": "package.module:callable",
    }.items():
        refuse(config.model_copy(update={"name": name}), name.partition(":")[0], part)


def write_idx(root: Path, n: int) -> Path:
    raw = root / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for part in ("train", "t10k"):
        images = np.random.default_rng(0).integers(0, 256, (n, 28, 28), dtype=np.uint8)
        header = struct.pack(">IIII", 0x803, n, 28, 28)
        (raw / f"{part}-images-idx3-ubyte").write_bytes(header + images.tobytes())
        labels = bytes(i % 10 for i in range(n))
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(struct.pack(">II", 0x801, n) + labels)
    return raw


def test_idx_files(tmp_path):
    raw = write_idx(tmp_path, 40)
    config = DataConfig(name="mnist", root=tmp_path)
    data = load_data(config)
    assert data.test is not None and (len(data.train), len(data.test)) == (36, 40)
    labels = (raw / "train-labels-idx1-ubyte").read_bytes()
    (raw / "train-labels-idx1-ubyte").write_bytes(struct.pack(">II", 0x801, 39) + labels[8:-1])
    refuse(config, "40 images and 39 labels")
    (raw / "train-labels-idx1-ubyte").write_bytes(labels)
    images = (raw / "train-images-idx3-ubyte").read_bytes()
    for broken in (images[:5000], images[:7], b""):
        (raw / "train-images-idx3-ubyte").write_bytes(broken)
        refuse(config, "MNIST/raw", "incomplete or damaged")
    (raw / "train-images-idx3-ubyte").unlink()
    refuse(config, "MNIST/raw", "incomplete or damaged")


def test_missing_set_and_failed_download(tmp_path, monkeypatch):
    from torchvision import datasets

    def unreachable(*args: object, **kwargs: object) -> None:
        raise OSError("network is unreachable")

    monkeypatch.setattr(datasets.MNIST, "download", unreachable)
    monkeypatch.setattr(datasets.CIFAR10, "download", unreachable)
    for name in ("mnist", "fashion_mnist", "cifar10"):
        refuse(DataConfig(name=name, root=tmp_path), str(tmp_path), "download failed", "DPSD_DATA")
    for name in ("cifar10_jpeg", "att_faces"):
        refuse(DataConfig(name=name, root=tmp_path), f"{tmp_path}/{name}.npz", "DPSD_DATA")


def jpeg_archive(path: Path, images: np.ndarray, **change: object) -> None:
    arrays: dict[str, object] = {}
    for part in ("train", "test"):
        parts = []
        for image in images:
            buffer = io.BytesIO()
            Image.fromarray(image).save(buffer, "JPEG", quality=95)
            parts.append(buffer.getvalue())
        arrays[f"{part}_jpeg"] = np.frombuffer(b"".join(parts), np.uint8)
        arrays[f"{part}_offset"] = np.cumsum([0, *map(len, parts)])
        arrays[f"{part}_label"] = np.arange(len(images)).astype(np.uint8) % 10
    np.savez(path, **{**arrays, **change})


def test_jpeg_archive(tmp_path):
    values = np.arange(20, dtype=np.uint8) * 10
    images = np.broadcast_to(values[:, None, None, None], (20, 32, 32, 3))
    jpeg_archive(tmp_path / "cifar10_jpeg.npz", images)
    config = DataConfig(name="cifar10_jpeg", root=tmp_path)
    data = load_data(config)
    assert data.train.images.shape == (18, 3, 32, 32)
    means = data.train.images.float().mean((1, 2, 3))
    assert torch.allclose(means, torch.tensor(values[:18]).float(), atol=2)
    jpeg_archive(tmp_path / "cifar10_jpeg.npz", images, train_jpeg=np.zeros(9, np.uint8))
    refuse(config, "cifar10_jpeg.npz", "damaged")
    jpeg_archive(tmp_path / "cifar10_jpeg.npz", images[:, :16, :16])
    refuse(config, "cifar10_jpeg.npz", "damaged")


def test_real_files(dpsd_data):
    faces = load_data(DataConfig(name="att_faces", root=dpsd_data, shape=(1, 56, 46)))
    assert faces.test is not None
    assert (len(faces.train), len(faces.holdout), len(faces.test)) == (252, 28, 120)
    assert faces.test.labels.bincount().tolist() == [3] * 40
    assert faces.train.labels.unique().tolist() == list(range(40))
    for name in ("mnist", "fashion_mnist"):
        data = load_data(DataConfig(name=name, root=dpsd_data))
        assert data.test is not None
        assert (len(data.train), len(data.holdout), len(data.test)) == (54000, 6000, 10000)
    # The known mean of Fashion-MNIST's 60,000 training images is 0.2860.
    total = data.train.images.double().sum() + data.holdout.images.double().sum()
    assert abs(float(total) / (60000 * 784 * 255) - 0.2860) < 1e-4


def test_pictures_stand_upright_in_the_declared_mode_and_size(tmp_path):
    """Pillow's own way, step by step, for every mode and for a camera that was turned."""
    from PIL import ImageOps

    noise = np.random.default_rng(0).integers(0, 256, (12, 9, 4), dtype=np.uint8)
    turned = Image.Exif()
    turned[0x0112] = 6
    for i, mode in enumerate(("RGB", "L", "RGBA", "P", "1", "CMYK")):
        suffix, more = ("jpg", {"exif": turned}) if mode in ("RGB", "L", "CMYK") else ("png", {})
        Image.fromarray(noise[:, :, :4]).convert(mode).save(tmp_path / f"{i}.{suffix}", **more)
    for shape in ((1, 12, 9), (3, 9, 12), (3, 5, 7)):
        facts = public_facts(DataConfig(name="none", shape=shape, classes=2))
        found = load_public_images(tmp_path, facts)
        for path, image in zip(sorted(tmp_path.iterdir()), found, strict=True):
            with Image.open(path) as opened:
                upright = ImageOps.exif_transpose(opened).convert("L" if shape[0] == 1 else "RGB")
            pixels = np.asarray(upright.resize((shape[2], shape[1]), Image.Resampling.BILINEAR))
            wanted = pixels[None] if shape[0] == 1 else np.moveaxis(pixels, 2, 0)
            assert np.array_equal(image.numpy(), wanted), (path, shape)
