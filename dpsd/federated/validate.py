"""Checks of replies: what no honest client can send is refused by name.

No rule here depends on which of its possible values an honest client sent: noise of bounded reach
never leaves the ranges below. No message says a value of a refused reply. A client with a defect
may have sent what was never privatised, and messages are published.
"""

from typing import Any

import numpy as np
import torch
from flwr.app import RecordDict
from numpy.typing import NDArray

from dpsd.errors import UserError
from dpsd.federated import messages
from dpsd.privacy.mechanisms.base import Answers, Mechanism
from dpsd.privacy.mechanisms.votes import labels_impossible


class Malformed(UserError):
    """A reply that no honest client sends."""


def read_votes(content: RecordDict, mechanism: Mechanism, clients: int, rows: int) -> Answers:
    """Votes of a node's clients, `values` int64 [B, clients].

    Raises:
        Malformed: wrong fields, shape or type, or a vote for no class.
    """
    votes = _array(content, "values", "iu", (clients, rows)).astype(np.int64)
    answers = Answers(torch.from_numpy(np.ascontiguousarray(votes.T)))
    _possible(mechanism, votes, answers)
    return answers


def read_answers(
    content: RecordDict, mechanism: Mechanism, rows: int, frame: Answers | None
) -> Answers:
    """One client's privatised answers.

    Args:
        content: of the reply.
        mechanism: the client's.
        rows: number of images asked.
        frame: an answer to the same images, whose support, size and prior are public.

    Raises:
        Malformed: wrong fields, shape or type, not finite, or outside the mechanism's range.
    """
    support, size, prior = (None, None, None) if frame is None else (
        frame.support, frame.size, frame.prior
    )  # fmt: skip
    kinds, shape = mechanism.values_spec(rows)
    values = _array(content, "values", kinds, shape)
    values = values.astype(np.float32 if kinds == "f" else np.int64)
    if mechanism.draws_support:
        width = messages.group_width(mechanism.classes)
        group = _array(content, "group", "u", (rows, width)).astype(np.uint8)
        support, size = messages.unpack_group(group, mechanism.classes)
    answers = Answers(torch.from_numpy(values), support, size, prior)
    _possible(mechanism, values, answers)
    return answers


def read_labels(content: RecordDict, classes: int, sigma: float | None) -> NDArray[np.int64]:
    """A label histogram, int64 [K].

    Raises:
        Malformed: wrong fields, shape or type, or counts that no histogram with noise has.
    """
    values = _array(content, "labels", "iu", (classes,)).astype(np.int64)
    if (why := labels_impossible(values, sigma)) is not None:
        raise Malformed(why)
    return values


def _possible(mechanism: Mechanism, values: NDArray[Any], answers: Answers) -> None:
    if (why := mechanism.impossible(values, answers)) is not None:
        raise Malformed(why)


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
