"""Noise bits from a cryptographic source: ChaCha20 under a key from the operating system."""

import hashlib
import os

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20
from numpy.typing import NDArray
from scipy.special import ndtri

_KEY_BYTES, _NONCE_BYTES = 32, 16


class NoiseSource:
    """A ChaCha20 key stream, read as integers or standard normals.

    Args:
        insecure_seed: for tests and benchmarks alone. With it the stream can be predicted by
            anybody who knows the seed, and nothing that it protects is private. Without it the
            key comes from `os.urandom`.
    """

    def __init__(self, insecure_seed: bytes | None = None) -> None:
        if insecure_seed is None:
            key = os.urandom(_KEY_BYTES)
        else:
            key = hashlib.blake2b(insecure_seed, digest_size=_KEY_BYTES).digest()
        self._stream = Cipher(ChaCha20(key, bytes(_NONCE_BYTES)), mode=None).encryptor()

    def integers(self, shape: tuple[int, ...]) -> NDArray[np.uint64]:
        """Uniform on 0 ... 2^64 - 1, uint64."""
        size = int(np.prod(shape)) * 8
        return np.frombuffer(self._stream.update(bytes(size)), dtype=np.uint64).reshape(shape)

    def normals(self, shape: tuple[int, ...]) -> NDArray[np.float64]:
        """Standard normals, float64, by inversion of 52-bit uniforms (reach: 8.2 deviations)."""
        uniform = ((self.integers(shape) >> np.uint64(12)).astype(np.float64) + 0.5) * 2.0**-52
        return np.asarray(ndtri(uniform), dtype=np.float64)
