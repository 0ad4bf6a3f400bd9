"""What an honest client's reply can look like; everything else is refused by name.

No rule here depends on which of the values that an honest client can send it did send: noise of
bounded reach never leaves the ranges below. No message says a value of a reply that is refused: a
client with a defect may have sent what was never privatised, and messages are published.
"""

from typing import Any

import numpy as np
import torch
from flwr.app import RecordDict
from numpy.typing import NDArray

from dpsd.errors import UserError
from dpsd.federated import messages
from dpsd.privacy.mechanisms.base import Answers, Mechanism, NoMechanism
from dpsd.privacy.mechanisms.gaussian import Gaussian
from dpsd.privacy.mechanisms.group_response import GroupResponse
from dpsd.privacy.mechanisms.randomized_response import RandomizedResponse
from dpsd.privacy.mechanisms.votes import NoisyVotes

_REACH = 9.0  # of ChaCha20 normals by inversion: 8.3 deviations
_FAR = 40.0  # deviations that a discrete Gaussian passes with a chance below 1e-340


class Malformed(UserError):
    """A reply that no honest client sends."""


def read_votes(content: RecordDict, clients: int, rows: int, classes: int) -> NDArray[np.int64]:
    """Votes of a node's clients, int64 [clients, B].

    Raises:
        Malformed: wrong fields, shape or type, or no class.
    """
    values = _values(content, "iu", (clients, rows))
    if values.size and not (values.min() >= 0 and values.max() < classes):
        raise Malformed(f"votes that are not 0 to {classes - 1}")
    return values.astype(np.int64)


def read_answers(
    content: RecordDict, mechanism: Mechanism, rows: int, frame: Answers | None
) -> Answers:
    """One client's privatised answers.

    Args:
        content: of the reply.
        mechanism: the client's.
        rows: images asked.
        frame: an answer to the same images, whose support, size and prior are public.

    Raises:
        Malformed: wrong fields, shape or type, not finite, or outside of the mechanism's range.
    """
    if isinstance(mechanism, GroupResponse):
        return _read_group(content, mechanism, rows)
    support, size, prior = (None, None, None) if frame is None else (
        frame.support, frame.size, frame.prior
    )  # fmt: skip
    values = _read(content, mechanism, rows, support, size)
    return Answers(torch.from_numpy(values), support, size, prior)


def read_labels(content: RecordDict, classes: int, sigma: float | None) -> NDArray[np.int64]:
    """A label histogram, int64 [K].

    Raises:
        Malformed: wrong fields, shape or type, or counts that no histogram with noise has.
    """
    values = _array(content, "labels", "iu", (classes,)).astype(np.int64)
    low = -_FAR * (sigma or 0.0)
    if (values < low).any():
        raise Malformed(f"a label count below {low:.0f}")
    return values


def _read(
    content: RecordDict, mechanism: Mechanism, rows: int, support: Any, size: Any
) -> NDArray[Any]:
    if isinstance(mechanism, Gaussian):
        values = _values(content, "f", (rows, mechanism.k)).astype(np.float32)
        _within(values, mechanism.bound_norm + _REACH * mechanism.sigma)
        return values
    if isinstance(mechanism, NoisyVotes):
        counts = _values(content, "iu", (rows, mechanism.k)).astype(np.int64)
        _within(counts, mechanism.voters + _FAR * mechanism.sigma)
        return counts
    if isinstance(mechanism, RandomizedResponse):
        labels = _values(content, "iu", (rows,)).astype(np.int64)
        if support is None:
            fits = (labels >= 0) & (labels < mechanism.classes)
        else:
            within = np.arange(support.shape[1])[None] < size.numpy()[:, None]
            fits = ((support.numpy() == labels[:, None]) & within).any(1)
        if not fits.all():
            raise Malformed("labels that the question does not allow")
        return labels
    assert isinstance(mechanism, NoMechanism)
    values = _values(content, "f", (rows, mechanism.classes)).astype(np.float32)
    _within(values, 1e3)
    if values.size and (values.max() > 1e-3 or abs(np.exp(values).sum(1) - 1).max() > 1e-2):
        raise Malformed("log-probabilities that are none")
    return values


def _read_group(content: RecordDict, mechanism: GroupResponse, rows: int) -> Answers:
    said = _values(content, "iu", (rows,)).astype(np.int64)
    width = messages.group_width(mechanism.classes)
    support, size = messages.unpack_group(
        _array(content, "group", "u", (rows, width)).astype(np.uint8), mechanism.classes
    )
    if ((said != 0) & (said != 1)).any() or (size < 1).any() or (size >= mechanism.classes).any():
        raise Malformed("an answer that is neither yes nor no, or a group of none or all classes")
    return Answers(torch.from_numpy(said), support, size)


def _values(content: RecordDict, kinds: str, shape: tuple[int, ...]) -> NDArray[Any]:
    return _array(content, "values", kinds, shape)


def _array(content: RecordDict, name: str, kinds: str, shape: tuple[int, ...]) -> NDArray[Any]:
    try:
        found = messages.arrays_of(content).get(name)
    except Exception as e:
        raise Malformed(f"{name} that cannot be read ({type(e).__name__})") from e
    if found is None:
        raise Malformed(f"no {name}")
    if found.dtype.kind not in kinds or found.shape != shape:
        raise Malformed(f"{name} {found.dtype} {list(found.shape)}, expected {list(shape)}")
    if found.dtype.kind == "f" and not np.isfinite(found).all():
        raise Malformed(f"{name} that are not finite")
    return found


def _within(values: NDArray[Any], reach: float) -> None:
    if values.size and (values.max() > reach or values.min() < -reach):
        raise Malformed(f"values beyond {reach:.4g}")
