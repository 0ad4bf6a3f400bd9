"""What the guard keeps of an account's questions: about five kilobytes, whatever the account asks.

Of a question the guard sees a feature vector and the model's answer, never the image. `Rows` holds
what the reference makes of these; a sketch takes rows in, and the detectors read it at the end of
each window of `WINDOW` questions.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dpsd.guard.detection.mmd import FEATURES

WINDOW = 32
"""Questions in a window."""
BITS = 10
"""Of a bucket: 1,024 buckets of features."""
SMALL = 16
"""Dimensions in which nearest questions are looked for."""
_HASHES, _KEPT, _POINTS = 64, 64, 32
_NEAR = 4  # bits of 64 in which near-duplicates differ, at most

_FIELDS = np.dtype([
    ("asked", "i8"), ("entropy_all", "f8"), ("whole", "f4", FEATURES),
    ("count", "i4"), ("cosines", "f4", FEATURES), ("buckets", "u1", 2**BITS // 8),
    ("entropy", "f8"), ("margin", "f8"), ("outlier", "f8"), ("wanted", "i4"), ("repeats", "i4"),
    ("nearest", "f4", WINDOW), ("found", "i4"),
    ("gaps", "i4"), ("gap_mean", "f8"), ("gap_m2", "f8"),
    ("hashes", "u8", _HASHES), ("hashed", "i8"),
    ("kept", "f2", (_KEPT, SMALL)), ("kept_class", "i2", _KEPT), ("keeps", "i8"),
    ("first", "f8"), ("last", "f8"), ("points", "f2", (_POINTS, 2)), ("pointed", "i8"),
])  # fmt: skip
_OF_WINDOW = ("count", "cosines", "buckets", "entropy", "margin", "outlier", "wanted", "repeats",
              "nearest", "found", "gaps", "gap_mean", "gap_m2")  # fmt: skip


@dataclass(frozen=True)
class Rows:
    """Questions as the detectors see them.

    Attributes:
        cosines: random cosines of the features less honest ones' mean, float32 [B, 256].
        buckets: int64 [B], from 0 to 1023.
        entropy: of the answers, nats, float64 [B].
        margin: between the two likeliest classes, float64 [B].
        classes: the likeliest, int64 [B].
        small: random projections of the features, float32 [B, 16].
        hashes: uint64 [B]; near-duplicates differ in few bits.
        points: for pictures, float32 [B, 2].
        outlier: how much they look like an attacker's, from 0 on, float64 [B].
    """

    cosines: NDArray[np.float32]
    buckets: NDArray[np.int64]
    entropy: NDArray[np.float64]
    margin: NDArray[np.float64]
    classes: NDArray[np.int64]
    small: NDArray[np.float32]
    hashes: NDArray[np.uint64]
    points: NDArray[np.float32]
    outlier: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.buckets)

    def pick(self, which: Any) -> "Rows":
        """Some of the rows: a slice, or indices."""
        return Rows(**{name: rows[which] for name, rows in vars(self).items()})


class Sketch:
    """The sketch of one account.

    Attributes:
        fields: a structured array of one element; see `_FIELDS`.
    """

    def __init__(self, content: bytes | None = None) -> None:
        """Of nothing, or what `to_bytes` wrote; a sketch of another size is dropped."""
        if content is not None and len(content) == _FIELDS.itemsize:
            self.fields = np.frombuffer(content, _FIELDS).copy()
        else:
            self.fields = np.zeros(1, _FIELDS)

    def __getitem__(self, name: str) -> Any:
        return self.fields[name][0]

    def to_bytes(self) -> bytes:
        """For the store: always of the same length."""
        return self.fields.tobytes()

    @property
    def room(self) -> int:
        """Questions until the window ends."""
        return WINDOW - int(self["count"])

    def points(self) -> NDArray[np.float32]:
        """The latest questions' projections, float32 [up to 32, 2]."""
        return np.asarray(self["points"][: min(int(self["pointed"]), _POINTS)], np.float32)

    def direction(self) -> NDArray[np.float32]:
        """Mean of the cosines over all questions, float32 [256]; zeros without any."""
        return np.asarray(self["whole"] / max(1, int(self["asked"])), np.float32)

    def asked_at(self, at: NDArray[np.float64]) -> None:
        """Requests: the gaps between them count for regularity.

        Args:
            at: when they came, rising, seconds since 1970, float64 [R]; equal times are one
                request.
        """
        f = self.fields[0]
        before = np.concatenate([at[:1] if f["last"] == 0 else [f["last"]], at])
        apart = np.diff(before)
        gaps = np.log(apart[apart > 0] + 1e-3)
        if len(gaps):  # Chan et al. 1983: two samples' means and squared deviations make one's
            n, mean = int(f["gaps"]), float(f["gap_mean"])
            total, shift = n + len(gaps), gaps.mean() - mean
            f["gap_m2"] += ((gaps - gaps.mean()) ** 2).sum() + shift**2 * n * len(gaps) / total
            f["gap_mean"] = mean + shift * len(gaps) / total
            f["gaps"] = total
        if f["first"] == 0:
            f["first"] = at[0]
        f["last"] = max(f["last"], at[-1])

    def add(self, rows: Rows, wanted: bool, spread: float) -> None:
        """Take in questions, no more than the window has room for.

        Args:
            rows: the questions.
            wanted: whether they asked for probabilities.
            spread: usual distance of a question to the nearest one; what is further is kept.
        """
        f, n = self.fields[0], len(rows)
        assert n <= self.room
        f["asked"] += n
        f["count"] += n
        total = rows.cosines.sum(0)
        f["cosines"] += total
        f["whole"] += total
        f["entropy_all"] += rows.entropy.sum()
        f["entropy"] += rows.entropy.sum()
        f["margin"] += rows.margin.sum()
        f["outlier"] += rows.outlier.sum()
        f["wanted"] += n * wanted
        np.bitwise_or.at(f["buckets"], rows.buckets >> 3,
                         (1 << (rows.buckets & 7)).astype(np.uint8))  # fmt: skip
        self._repeats(rows.hashes)
        self._nearest(rows, spread)
        _into_ring(f["points"], int(f["pointed"]), rows.points)
        f["pointed"] += n

    def close_window(self) -> None:
        """Begin another window."""
        for name in _OF_WINDOW:
            self.fields[name] = 0

    def _repeats(self, hashes: NDArray[np.uint64]) -> None:
        """Count questions that nearly repeat one of the latest, and remember them all."""
        f, n = self.fields[0], len(hashes)
        before = f["hashes"][: min(int(f["hashed"]), _HASHES)]
        known = np.concatenate([before, hashes])
        near = np.bitwise_count(known[None] ^ hashes[:, None]) <= _NEAR
        earlier = np.arange(len(known))[None] < len(before) + np.arange(n)[:, None]
        f["repeats"] += int((near & earlier).any(1).sum())
        _into_ring(f["hashes"], int(f["hashed"]), hashes)
        f["hashed"] += n

    def _nearest(self, rows: Rows, spread: float) -> None:
        """Distances to the nearest earlier question of the same class; far ones are kept."""
        f, n = self.fields[0], len(rows)
        have = min(int(f["keeps"]), _KEPT)
        places = np.concatenate([f["kept"][:have].astype(np.float32), rows.small])
        classes = np.concatenate([f["kept_class"][:have].astype(np.int64), rows.classes])
        squares = (places**2).sum(1)[None] + (rows.small**2).sum(1)[:, None]
        apart = np.sqrt(np.maximum(squares - 2 * rows.small @ places.T, 0))
        earlier = np.arange(len(places))[None] < have + np.arange(n)[:, None]
        apart[~(earlier & (classes[None] == rows.classes[:, None]))] = np.inf
        nearest = apart.min(1)
        found = nearest[np.isfinite(nearest)]
        start = int(f["found"])
        f["nearest"][start : start + len(found)] = found
        f["found"] += len(found)
        far = nearest > spread
        _into_ring(f["kept"], int(f["keeps"]), rows.small[far])
        _into_ring(f["kept_class"], int(f["keeps"]), rows.classes[far])
        f["keeps"] += int(far.sum())


def _into_ring(ring: NDArray[Any], written: int, new: NDArray[Any]) -> None:
    """Write rows in place of the oldest; `written` rows were ever written before."""
    ring[(written + np.arange(len(new))) % len(ring)] = new
