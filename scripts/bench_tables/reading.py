"""Images a second and memory of private images that stay on disk."""

import json
import os
import subprocess
import sys
import tarfile
import tempfile
import time
from argparse import Namespace
from collections.abc import Iterator
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from bench_tables.jobs import RESULTS, ROOT, Job

SIDE = 224
BATCH = 256
CLASSES = 1000
MANY = 1_200_000
FILES = {"224x224": ((224, 224), 3000), "500x375": ((500, 375), 1000)}
"""Name: width and height of the JPEG files, and how many."""
SAMPLES = 100_000  # in WebDataset shards of a tenth of them


def reading_jobs(args: Namespace) -> Iterator[Job]:
    """One epoch of JPEG files with one and two threads, and an index of 1.2 million rows."""
    facts = {"files": {name: n // args.shrink for name, (_, n) in FILES.items()},
             "indexed": MANY // args.shrink, "samples": SAMPLES // args.shrink,
             "shape": [3, SIDE, SIDE], "batch": BATCH}  # fmt: skip
    yield Job(RESULTS / "reading.json", facts, partial(measure, args.shrink))


def measure(shrink: int) -> dict[str, Any]:
    """The figures, each from a fresh process; all files are removed afterwards."""
    figures: dict[str, Any] = {"load_average": os.getloadavg()[0]}
    figures["imports"] = _fresh_process("imports")
    for name, (size, count) in FILES.items():
        with tempfile.TemporaryDirectory() as folder:
            _write_jpegs(Path(folder), size, count // shrink)
            figures[name] = {
                f"threads_{n}": _fresh_process("epoch", folder, str(n)) for n in (1, 2)
            }
            sizes = [p.stat().st_size for p in Path(folder).rglob("*.jpg")]
            figures[name]["mean_KiB"] = sum(sizes) / len(sizes) / 2**10
    with tempfile.TemporaryDirectory() as folder:
        _write_empty(Path(folder), MANY // shrink)
        figures["index"] = _fresh_process("index", folder)
    with tempfile.TemporaryDirectory() as folder:
        _write_shards(Path(folder), SAMPLES // shrink)
        figures["shards"] = _fresh_process("shards", folder)
    return figures


def _write_jpegs(folder: Path, size: tuple[int, int], count: int) -> None:
    """Smooth colours with grain, in as many bytes as a photograph of this size has."""
    rng = np.random.default_rng(0)
    for label in range(2):
        (folder / f"{label}").mkdir()
    for i in range(count):
        colours = Image.fromarray(rng.integers(0, 256, (12, 12, 3), dtype=np.uint8))
        smooth = np.asarray(colours.resize(size, Image.Resampling.BICUBIC), np.int16)
        grain = rng.integers(-12, 13, smooth.shape, dtype=np.int16)
        image = Image.fromarray((smooth + grain).clip(0, 255).astype(np.uint8))
        image.save(folder / f"{i % 2}" / f"{i}.jpg", quality=90)


def _write_empty(folder: Path, count: int) -> None:
    """Empty files under names like ImageNet's."""
    for label in range(CLASSES):
        (folder / f"n{10_000_000 + label}").mkdir()
    for i in range(count):
        name = f"n{10_000_000 + i % CLASSES}"
        os.close(os.open(folder / name / f"{name}_{i}.JPEG", os.O_CREAT | os.O_WRONLY))


def _write_shards(folder: Path, count: int) -> None:
    """Ten shards of samples whose images have no pixels: nobody reads them."""
    for shard in range(10):
        with tarfile.open(folder / f"{shard:05d}.tar", "w") as tar:
            for i in range(count // 10):
                for part, content in (("jpg", b"x" * 512), ("cls", b"%d" % (i % CLASSES))):
                    member = tarfile.TarInfo(f"{shard:05d}{i:06d}.{part}")
                    member.size = len(content)
                    tar.addfile(member, BytesIO(content))


def _fresh_process(*what: str) -> dict[str, Any]:
    paths = os.pathsep.join([str(ROOT), str(ROOT / "scripts"), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run([sys.executable, "-m", "bench_tables.reading", *what], text=True,
                          capture_output=True, check=True,
                          env=os.environ | {"PYTHONPATH": paths})  # fmt: skip
    figures: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    print(f"{' '.join(what)}: {figures}", flush=True)
    return figures


def _figures(what: str, folder: str = "", threads: str = "1") -> dict[str, Any]:
    from dpsd.config.sections import DataConfig
    from dpsd.data import rows
    from dpsd.data.identity import fingerprint
    from dpsd.data.load import load_data

    if what == "imports":
        return {"peak_MiB": _peak()}
    rows.IN_MEMORY_BYTES = 0
    torch.set_num_threads(int(threads))
    name = "webdataset" if what == "shards" else "image_folder"
    classes = 2 if what == "epoch" else CLASSES
    config = DataConfig(name=name, root=Path(folder), classes=classes, shape=(3, SIDE, SIDE))
    start = time.perf_counter()
    data = load_data(config)
    figures: dict[str, Any] = {"seconds_to_index": time.perf_counter() - start}
    if what == "index":
        start = time.perf_counter()
        fingerprint(data)
        figures["seconds_to_fingerprint"] = time.perf_counter() - start
    if what == "epoch":
        figures = _epoch(data.train.images)
    return figures | {"peak_MiB": _peak(), "rows": len(data.train) + len(data.holdout)}


def _epoch(images: Any) -> dict[str, Any]:
    from dpsd.data.rows import ahead

    start, began = time.perf_counter(), time.process_time()
    for _rows, _batch in ahead(images, torch.randperm(len(images)).split(BATCH)):
        pass
    seconds, processor = time.perf_counter() - start, time.process_time() - began
    return {"seconds": seconds, "images_per_second": len(images) / seconds,
            "processor_ms_per_image": 1000 * processor / len(images)}  # fmt: skip


def _peak() -> float:
    """Peak memory of this process; `ru_maxrss` would count the process that started it too."""
    status = Path("/proc/self/status").read_text().splitlines()
    return int(next(line.split()[1] for line in status if line.startswith("VmHWM"))) / 2**10


if __name__ == "__main__":
    print(json.dumps(_figures(*sys.argv[1:])))
