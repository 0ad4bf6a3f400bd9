"""Noise from a cryptographic source: ChaCha20 under a key from the operating system, or OpenDP."""

import functools
import hashlib
import math
import os
from collections.abc import Callable

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20
from numpy.typing import NDArray
from scipy.special import ndtri

_KEY_BYTES, _NONCE_BYTES = 32, 16


class NoiseSource:
    """A ChaCha20 key stream, read as integers, standard normals, discrete Gaussians or Laplaces.

    Args:
        insecure_seed: for tests and benchmarks alone. Anybody who knows the seed can predict the
            stream, so nothing that it protects is private. Without a seed the key comes from
            `os.urandom`.
    """

    def __init__(self, insecure_seed: bytes | None = None) -> None:
        self.seeded = insecure_seed is not None
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
        """Standard normals, float64, by inversion of 52-bit uniforms (they reach 8.2)."""
        uniform = ((self.integers(shape) >> np.uint64(12)).astype(np.float64) + 0.5) * 2.0**-52
        return np.asarray(ndtri(uniform), dtype=np.float64)

    def discrete_gaussians(self, shape: tuple[int, ...], sigma: float) -> NDArray[np.int64]:
        """Integers x with probability proportional to exp(-x^2 / 2 sigma^2), int64.

        OpenDP's exact sampler draws them with bits from the operating system (Canonne, Kamath and
        Steinke 2020, algorithm 3). With an insecure seed this stream is inverted instead, to the
        same distribution up to 2^-53.
        """
        size = int(np.prod(shape))
        if not self.seeded:
            return np.array(_opendp_gaussian(sigma)([0] * size), dtype=np.int64).reshape(shape)
        reach, cumulative = _discrete_gaussian_table(sigma)
        uniform = ((self.integers(shape) >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53
        return np.searchsorted(cumulative, uniform).astype(np.int64) - reach

    def discrete_laplaces(self, shape: tuple[int, ...], scale: float) -> NDArray[np.int64]:
        """Integers x with probability proportional to exp(-|x| / scale), int64.

        OpenDP's exact sampler draws them with bits from the operating system (Canonne, Kamath and
        Steinke 2020, algorithm 2). With an insecure seed this stream is inverted instead, to the
        same distribution up to 2^-53: |x| is at least k > 0 with probability 2 q^k / (1 + q) for
        q = exp(-1 / scale), and one more bit is the sign.

        Args:
            shape: of the array.
            scale: above 0, at most 2^56, so that no integer overflows.
        """
        size = int(np.prod(shape))
        if not self.seeded:
            return np.array(_opendp_laplace(scale)([0] * size), dtype=np.int64).reshape(shape)
        bits = self.integers(shape)
        uniform = ((bits >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53
        above_q = uniform * (1 + math.exp(-1 / scale)) / 2
        magnitude = np.floor(-scale * np.log(above_q)).astype(np.int64)
        return np.where(bits & np.uint64(1), magnitude, -magnitude)


@functools.lru_cache(maxsize=8)
def _opendp_laplace(scale: float) -> Callable[[list[int]], list[int]]:
    import opendp.prelude as dp

    dp.enable_features("contrib")
    measurement: Callable[[list[int]], list[int]] = dp.m.make_laplace(
        dp.vector_domain(dp.atom_domain(T="i64")), dp.l1_distance(T="i64"), scale=scale
    )
    return measurement


@functools.lru_cache(maxsize=8)
def _opendp_gaussian(sigma: float) -> Callable[[list[int]], list[int]]:
    import opendp.prelude as dp

    dp.enable_features("contrib")
    measurement: Callable[[list[int]], list[int]] = dp.m.make_gaussian(
        dp.vector_domain(dp.atom_domain(T="i64")), dp.l2_distance(T="f64"), scale=sigma
    )
    return measurement


@functools.lru_cache(maxsize=8)
def _discrete_gaussian_table(sigma: float) -> tuple[int, NDArray[np.float64]]:
    reach = math.ceil(12 * sigma) + 1
    mass = np.exp(-(np.arange(-reach, reach + 1, dtype=np.float64) ** 2) / (2 * sigma**2))
    return reach, np.cumsum(mass / mass.sum())[:-1]
