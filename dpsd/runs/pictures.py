"""Pictures of a run, from public data alone: synthetic images, curves, TensorBoard."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from dpsd.figures import new_figure, save_figure
from dpsd.files import whole_file
from dpsd.runs.folder import Run
from dpsd.student.bank import Bank

_SIDE = 10
_BOARD_PIXELS = 320
_EVENTS = "events.out.tfevents.*.dpsd"


def newest_images(bank: Bank, n: int) -> Tensor:
    """The newest images of a bank, newest first, uint8 [at most n, C, H, W]."""
    return bank.rows((bank.added - 1 - torch.arange(min(n, len(bank)))) % bank.window)[0]


def synthetic_grid(images: Tensor, path: Path) -> None:
    """Write a PNG of 10 x 10 images.

    Args:
        images: uint8 [n, 1 or 3, H, W]; the first 100 are shown. With another number of
            channels, the first channel is shown.
        path: of the PNG, written whole or not at all.
    """
    pixels = grid(images, _SIDE).permute(1, 2, 0).numpy()
    with whole_file(path) as partial:
        Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels).save(partial, "PNG")


def grid(images: Tensor, side: int) -> Tensor:
    """Put side x side images on a sheet, uint8 [n, C, H, W] -> uint8 [1 or 3, h, w]."""
    _, c, h, w = images.shape
    c = c if c in (1, 3) else 1
    sheet = torch.full((c, side * (h + 1) + 1, side * (w + 1) + 1), 128, dtype=torch.uint8)
    for i, image in enumerate(images[: side * side]):
        y, x = i // side * (h + 1) + 1, i % side * (w + 1) + 1
        sheet[:, y : y + h, x : x + w] = image[:c]
    return sheet


def curves(metrics: list[dict[str, Any]], path: Path) -> None:
    """Write a PNG of the loss and of how well the student predicts the answers as they come in.

    Args:
        metrics: public records of the run, as `Run.metrics` gives them.
        path: of the PNG, written whole or not at all.
    """
    names = {
        "loss": "loss",
        "agreement_with_answers": "agreement with the answers",
        "gain_nats_per_answer": "gain over chance, nats per answer",
    }
    shown = {k: v for k, v in names.items() if any(k in m for m in metrics)} or {"loss": "loss"}
    figure = new_figure(4 * len(shown), 3)
    panels = figure.subplots(1, len(shown), squeeze=False)[0]
    for axes, (key, label) in zip(panels, shown.items(), strict=True):
        points = [(m["answers"], m[key]) for m in metrics if key in m]
        axes.plot([x for x, _ in points], [y for _, y in points], marker=".")
        axes.set(xlabel="answers asked", ylabel=label)
        axes.grid(alpha=0.3)
    save_figure(figure, path, dpi=120)


class Board:
    """TensorBoard records of a run in `release/tb`: scalars, images, and predicted classes.

    This class writes the events itself. `SummaryWriter` would put the machine's host name into the
    file name and flush from a thread. The wall time of an event is the number of its round: real
    times would show how long the private computation took.

    Args:
        run: whose release is written.
        start: first round to come. Events of an interrupted run from this round on are dropped.
    """

    def __init__(self, run: Run, start: int = 0) -> None:
        from tensorboard.compat.proto import event_pb2
        from tensorboard.summary.writer.record_writer import RecordWriter

        folder = run.release / "tb"
        folder.mkdir(exist_ok=True)
        for path in folder.glob(_EVENTS):
            if int(path.name.split(".")[-2]) >= start:
                path.unlink()
        name = _EVENTS.replace("*", f"{start:010d}")
        self._event, self._session = event_pb2.Event, event_pb2.SessionLog
        self._file = RecordWriter((folder / name).open("wb"))
        self._write(start, file_version="brain.Event:2")
        if start:  # makes readers forget the rounds that are done again
            self._write(start, step=start, session_log=self._session(status=self._session.START))

    def round(self, record: dict[str, Any], images: Tensor, student_predictions: Tensor) -> None:
        """Write one round.

        Args:
            record: its public record; all numbers in it become scalars.
            images: the round's synthetic images, uint8 [B, C, H, W]; may be empty.
            student_predictions: the student's probabilities on them, float [B, K].
        """
        from torch.utils.tensorboard import summary

        step = int(record["round"])
        for key, value in record.items():
            if isinstance(value, int | float) and key != "round":
                self._write(step, step=step, summary=summary.scalar(key, value))
        if len(images):
            side = max(2, min(_SIDE, _BOARD_PIXELS // max(images.shape[2:])))
            shown = grid(images, side)
            sheet = summary.image("synthetic", shown, dataformats="CHW")
            bins = np.arange(student_predictions.shape[1] + 1) - 0.5
            classes = student_predictions.argmax(1).cpu().numpy()
            counts = summary.histogram("student_classes", classes, bins)
            self._write(step, step=step, summary=sheet)
            self._write(step, step=step, summary=counts)
        self._file.flush()

    def close(self) -> None:
        """Close the file. Call it before the release is sealed."""
        self._file.close()

    def _write(self, round: int, **fields: Any) -> None:
        self._file.write(self._event(wall_time=round, **fields).SerializeToString())
