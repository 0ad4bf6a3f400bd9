"""Read the pictures and class counts of a run's TensorBoard records, without TensorBoard."""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_HEAD, _CHECKSUM = 12, 4  # bytes around each record: length and its checksum, then the record's


@dataclass
class BoardRound:
    """What one round wrote: a sheet of images as PNG, and how often each class was named."""

    sheet: bytes = b""
    classes: tuple[float, ...] = ()


def board_rounds(release: Path) -> dict[int, BoardRound]:
    """By round, what `dpsd.runs.pictures.Board` wrote; the last record of a round counts."""
    from tensorboard.compat.proto import event_pb2

    rounds: dict[int, BoardRound] = {}
    for path in sorted((release / "tb").glob("events.out.tfevents.*")):
        for record in _records(path.read_bytes()):
            event = event_pb2.Event.FromString(record)
            for value in event.summary.value:
                found = rounds.setdefault(int(event.step), BoardRound())
                if value.tag == "synthetic":
                    found.sheet = bytes(value.image.encoded_image_string)
                elif value.tag == "student_classes":
                    found.classes = _counts(value)
    return dict(sorted(rounds.items()))


def _counts(value: object) -> tuple[float, ...]:
    """Counts of classes 0, 1, ... from a histogram with a bin for each class.

    The histogram's limits are class + 0.5; it leaves out empty bins at its ends.
    """
    histogram = value.histo  # type: ignore[attr-defined]
    by_limit = dict(zip(histogram.bucket_limit, histogram.bucket, strict=True))
    last = max(by_limit, default=-0.5)
    return tuple(float(by_limit.get(c + 0.5, 0.0)) for c in range(round(last + 0.5)))


def _records(data: bytes) -> Iterator[bytes]:
    """The records of a TFRecord file; a record that was cut off ends it."""
    at = 0
    while at + _HEAD <= len(data):
        (size,) = struct.unpack_from("<Q", data, at)
        end = at + _HEAD + size
        if end + _CHECKSUM > len(data):
            return
        yield data[at + _HEAD : end]
        at = end + _CHECKSUM
