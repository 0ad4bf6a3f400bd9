"""Randomness from a key that was drawn before, and without, the data."""

import hashlib
import os

import numpy as np
import torch
from torch import Tensor

KEY_BYTES = 16


def draw_key() -> bytes:
    """A fresh key of `KEY_BYTES` from the operating system."""
    return os.urandom(KEY_BYTES)


def keyed_permutation(count: int, key: bytes) -> Tensor:
    """A uniform permutation of 0 .. count - 1 that depends on the count and the key alone.

    Returns:
        int64 [count].
    """
    stream = np.random.Generator(np.random.Philox(key=int.from_bytes(key, "little")))
    return torch.from_numpy(stream.permutation(count).astype(np.int64))


def stream(key: bytes, index: int) -> torch.Generator:
    """The random stream of teacher `index`, which it shares with no other teacher."""
    digest = hashlib.blake2b(f"dpsd teacher {index}".encode(), key=key, digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "little") >> 1)
