"""What was asked already: how often each image, by the hash of its pixels."""

import numpy as np
from numpy.typing import NDArray

from dpsd.privacy.ledger import HASH_BYTES, Hashes


class Asked:
    """Counts how often images were asked, by the first 8 bytes of their hash.

    A chance collision counts an image once too often, never too rarely. Sorted runs of doubling
    size keep both insertion and look-up cheap at millions of images.
    """

    def __init__(self) -> None:
        self._runs: list[NDArray[np.uint64]] = []

    def counts(self, hashes: Hashes) -> NDArray[np.int64]:
        """How often each image was added before, int64 [B]."""
        keys, out = _keys(hashes), np.zeros(len(hashes), dtype=np.int64)
        for run in self._runs:
            out += np.searchsorted(run, keys, "right") - np.searchsorted(run, keys, "left")
        return out

    def add(self, hashes: Hashes) -> None:
        """Count these images once more."""
        new = np.sort(_keys(hashes))
        while self._runs and len(self._runs[-1]) <= 2 * len(new):
            new = np.sort(np.concatenate([self._runs.pop(), new]), kind="stable")
        self._runs.append(new)


def _keys(hashes: Hashes) -> NDArray[np.uint64]:
    return np.ascontiguousarray(hashes).view(np.uint64).reshape(-1, HASH_BYTES // 8)[:, 0]


def copies_before(hashes: Hashes) -> NDArray[np.int64]:
    """For each row, how many equal rows stand before it in the batch, int64 [B]."""
    keys = _keys(hashes)
    order = np.argsort(keys, kind="stable")
    ordered = keys[order]
    starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
    rank = np.arange(len(keys)) - np.repeat(starts, np.diff(np.r_[starts, len(keys)]))
    out = np.empty(len(keys), dtype=np.int64)
    out[order] = rank
    return out
