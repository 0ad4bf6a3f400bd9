"""The served student: ONNX Runtime or torch, whichever is faster on this machine, in batches."""

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dpsd.console import Say
from dpsd.errors import UserError
from dpsd.models.frozen import Shape
from dpsd.runs.export import export
from dpsd.runs.release import Labeller, load_student

Ask = Callable[[Tensor], Tensor]
"""uint8 [B, C, H, W] -> probabilities float32 [B, K]."""
_TRIALS, _TRIAL_IMAGES = 5, 32


def fastest(release: Path, shape: Shape, folder: Path, say: Say) -> Ask:
    """The student as torch module or ONNX session; the faster of the two on one image and on 32.

    Args:
        release: the release folder.
        shape: of its images.
        folder: keeps the exported student.
        say: receives the choice and both rates.
    """
    ways: dict[str, Ask] = {"torch": Labeller(load_student(release), torch.device("cpu")).predict}
    try:
        ways["onnx"] = _session(export(release, "onnx", folder / "student.onnx"))
    except UserError as e:
        say(f"served by torch: {e}")
    rates = {name: _rate(ask, shape) for name, ask in ways.items()}
    best = max(rates, key=lambda name: rates[name])
    say("served by " + best + ": " + ", ".join(f"{n} {r:,.0f} images/s" for n, r in rates.items()))
    return ways[best]


def _session(path: Path) -> Ask:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name

    def ask(images: Tensor) -> Tensor:
        pixels = images.numpy().astype(np.float32) / 255
        return torch.from_numpy(session.run(None, {name: pixels})[0]).softmax(1)

    return ask


def _rate(ask: Ask, shape: Shape) -> float:
    """Images a second: geometric mean of single images and of batches."""
    rates = []
    for n in (1, _TRIAL_IMAGES):
        images = torch.randint(0, 256, (n, *shape), dtype=torch.uint8)
        ask(images)
        start = time.perf_counter()
        for _ in range(_TRIALS):
            ask(images)
        rates.append(n * _TRIALS / (time.perf_counter() - start))
    return float(np.sqrt(rates[0] * rates[1]))


class Batcher:
    """Answers requests together: those that wait while the model computes make the next batch.

    A single request is answered at once, so that quiet times pay no delay.

    Args:
        ask: the model.
        most: images in a batch.
    """

    def __init__(self, ask: Ask, most: int = 256) -> None:
        self._ask, self._most = ask, most
        self._waiting: list[tuple[Tensor, asyncio.Future[Tensor]]] = []
        self._busy = False
        self._pool = ThreadPoolExecutor(1, "dpsd-model")
        self._task: asyncio.Task[None] | None = None
        self.batches = 0

    async def answer(self, images: Tensor) -> Tensor:
        """Probabilities float32 [B, K]."""
        future: asyncio.Future[Tensor] = asyncio.get_running_loop().create_future()
        self._waiting.append((images, future))
        if not self._busy:
            self._busy = True
            self._task = asyncio.create_task(self._work())  # kept, or it may be collected
        return await future

    async def _work(self) -> None:
        try:
            while self._waiting:
                batch = self._next()
                images = torch.cat([images for images, _ in batch])
                loop = asyncio.get_running_loop()
                try:
                    answers = await loop.run_in_executor(self._pool, self._ask, images)
                except Exception as e:
                    for _, future in batch:
                        if not future.done():
                            future.set_exception(e)
                    continue
                self.batches += 1
                parts = answers.split([len(images) for images, _ in batch])
                for part, (_, future) in zip(parts, batch, strict=True):
                    if not future.done():  # its client may have gone
                        future.set_result(part)
        finally:
            self._busy = False

    def _next(self) -> list[tuple[Tensor, "asyncio.Future[Tensor]"]]:
        """The oldest requests that fit in a batch, at least one."""
        count, total = 0, 0
        for images, _ in self._waiting:
            total += len(images)
            if count and total > self._most:
                break
            count += 1
        batch, self._waiting = self._waiting[:count], self._waiting[count:]
        return batch
