"""The served student: ONNX Runtime or torch, whichever is faster on this machine, in batches."""

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from dpsd.console import Say
from dpsd.errors import UserError
from dpsd.files import whole_file
from dpsd.imports import brief
from dpsd.models.frozen import Shape
from dpsd.models.networks import as_input, logits_and_features
from dpsd.runs.export import need_onnx, write_onnx
from dpsd.runs.release import load_student

Ask = Callable[[Tensor], tuple[Tensor, Tensor]]
"""uint8 [B, C, H, W] -> probabilities float32 [B, K] and features float32 [B, F] for the guard."""
_TRIALS, _TRIAL_IMAGES = 5, 32
_SHORT = 0.005  # seconds of a batch that others wait for
_CLOSE = 1e-3  # of probabilities, between the two ways


class _Both(nn.Module):
    """Logits and the input of the last linear layer."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Logits [B, K] and features [B, F] of float images from 0 to 1."""
        logits, features = logits_and_features(self.model, x)
        return logits, features.flatten(1)


def fastest(release: Path, shape: Shape, folder: Path, say: Say) -> Ask:
    """The student as torch module or ONNX session; the faster of the two on one image and on 32.

    Args:
        release: the release folder.
        shape: of its images.
        folder: keeps the exported student.
        say: receives the choice and both rates.
    """
    both = _Both(load_student(release)).eval()
    ways = {"torch": in_torch(both)}
    try:
        need_onnx()
        with whole_file(folder / "student.onnx", ".onnx") as partial:
            write_onnx(both, torch.zeros(2, *shape), partial, ("logits", "features"))
        ways["onnx"] = _checked(_session(folder / "student.onnx"), ways["torch"], shape)
    except Exception as e:  # the exporter raises errors of many kinds; torch serves all students
        say(f"served by torch: {brief(e)}")
    rates = {name: _rate(ask, shape) for name, ask in ways.items()}
    best = max(rates, key=lambda name: rates[name])
    say("served by " + best + ": " + ", ".join(f"{n} {r:,.0f} images/s" for n, r in rates.items()))
    return ways[best]


def in_torch(both: nn.Module) -> Ask:
    """A module that gives logits and features, as an `Ask`."""

    @torch.inference_mode()
    def ask(images: Tensor) -> tuple[Tensor, Tensor]:
        logits, features = both(as_input(images))
        return logits.float().softmax(1), features.float()

    return ask


def featured(model: nn.Module) -> Ask:
    """Any classifier of images, served by torch."""
    return in_torch(_Both(model).eval())


def _session(path: Path) -> Ask:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = torch.get_num_threads()
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # leaves the cores
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name

    def ask(images: Tensor) -> tuple[Tensor, Tensor]:
        logits, features = session.run(None, {name: images.numpy().astype(np.float32) / 255})
        return torch.from_numpy(logits).softmax(1), torch.from_numpy(features)

    return ask


def _checked(ask: Ask, wanted: Ask, shape: Shape) -> Ask:
    """The same, once it answers as the other does.

    Raises:
        UserError: it does not.
    """
    images = torch.randint(0, 256, (5, *shape), dtype=torch.uint8)
    gap = float((ask(images)[0] - wanted(images)[0]).abs().max())
    if not gap <= _CLOSE:
        raise UserError(f"the exported student differs by {gap:.2g} on random images")
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
    """Answers requests together: those that wait while others are answered make the next batch.

    A single request is answered at once, so that quiet times pay no delay. A batch that should
    take less than five milliseconds is computed in the event loop: going to a thread and back would
    take as long as a small model. A longer one is computed in a thread, and the service goes on.

    Args:
        ask: the model.
        most: images in a batch.
    """

    def __init__(self, ask: Ask, most: int = 256) -> None:
        self._ask, self._most = ask, most
        self._waiting: list[tuple[Tensor, asyncio.Future[tuple[Tensor, Tensor]]]] = []
        self._busy = False
        self._pool = ThreadPoolExecutor(1, "dpsd-model")
        self._task: asyncio.Task[None] | None = None
        self._seconds = float("inf")  # of one image in the best of the latest batches
        self.batches = 0

    async def answer(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Probabilities float32 [B, K] and features float32 [B, F]."""
        future: asyncio.Future[tuple[Tensor, Tensor]] = asyncio.get_running_loop().create_future()
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
                lengths = [len(images) for images, _ in batch]
                try:
                    answers = await self._compute(images)
                    parts = list(zip(*(rows.split(lengths) for rows in answers), strict=True))
                except Exception as e:
                    for _, future in batch:
                        if not future.done():
                            future.set_exception(e)
                    continue
                self.batches += 1
                for part, (_, future) in zip(parts, batch, strict=True):
                    if not future.done():  # its client may have gone
                        future.set_result(part)
        finally:
            self._busy = False

    async def _compute(self, images: Tensor) -> tuple[Tensor, Tensor]:
        start = time.perf_counter()
        if len(images) * self._seconds < _SHORT:
            answers = self._ask(images)
        else:
            loop = asyncio.get_running_loop()
            answers = await loop.run_in_executor(self._pool, self._ask, images)
        took = (time.perf_counter() - start) / len(images)
        self._seconds = min(took, 1.1 * self._seconds)  # larger batches take less for each
        return answers

    def _next(self) -> list[tuple[Tensor, "asyncio.Future[tuple[Tensor, Tensor]]"]]:
        """The oldest requests that fit in a batch, at least one."""
        count, total = 0, 0
        for images, _ in self._waiting:
            total += len(images)
            if count and total > self._most:
                break
            count += 1
        batch, self._waiting = self._waiting[:count], self._waiting[count:]
        return batch
