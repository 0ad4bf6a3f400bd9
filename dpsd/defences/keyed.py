"""What a secret key draws for a question: the same question and account always get the same draw.

SHAKE-256 of (key, purpose, account, image) is the source. Each part stands behind its length, and
the image behind its shape, so that two different inputs never make one message. Every byte of an
image enters: the published code of DAWN hashes 25 of them, so that unlike images share a draw.
"""

import hashlib
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dpsd.errors import UserError

KEY_BYTES = 16
"""The shortest key."""


def uniforms(images: Tensor, n: int, *, key: bytes, purpose: str, account: str = "") -> Tensor:
    """Draws for each image that nobody without the key can tell from random ones.

    Args:
        images: uint8 [B, C, H, W].
        n: draws for each image.
        key: at least 16 bytes.
        purpose: draws for different purposes are independent.
        account: who asks; empty where all accounts share the draw.

    Returns:
        float64 [B, n], from 0 to below 1.

    Raises:
        UserError: the key is too short.
    """
    begun = _begun(key, purpose, account)
    begun.update(_numbers(*images.shape[1:]))
    drawn = []
    for image in images.contiguous().numpy():
        state = begun.copy()
        state.update(image.tobytes())
        drawn.append(state.digest(8 * n))
    return torch.from_numpy(_as_uniform(b"".join(drawn)).reshape(len(images), n))


def key_uniforms(n: int, *, key: bytes, purpose: str, account: str = "") -> Tensor:
    """As `uniforms`, for the key alone: float64 [n]."""
    state = _begun(key, purpose, account)
    return torch.from_numpy(_as_uniform(state.digest(8 * n)))


def commitment(key: bytes) -> str:
    """A hash of the key, for publication before the key is used; it does not reveal the key."""
    return hashlib.sha256(b"dpsd defence key" + _numbers(len(key)) + key).hexdigest()


def _begun(key: bytes, purpose: str, account: str) -> Any:
    if len(key) < KEY_BYTES:
        raise UserError(f"key: {len(key)} bytes; accepted: {KEY_BYTES} or more")
    state = hashlib.shake_256(b"dpsd defence")
    for part in (key, purpose.encode(), account.encode()):
        state.update(_numbers(len(part)) + part)
    return state


def _numbers(*values: int) -> bytes:
    """How many numbers there are, and the numbers, 8 bytes each."""
    return b"".join(v.to_bytes(8, "little") for v in (len(values), *values))


def _as_uniform(drawn: bytes) -> NDArray[np.float64]:
    """53 bits of every 8 bytes as a number from 0 to below 1."""
    whole = np.frombuffer(drawn, "<u8") >> np.uint64(11)
    return whole.astype(np.float64) * 2.0**-53
