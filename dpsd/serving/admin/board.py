"""What the dashboard is given: the guard's memory, and what it may do."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dpsd.guard.policy import Policy
from dpsd.guard.storage.store import Store
from dpsd.serving.traffic import Traffic

Points = NDArray[np.float32]
LOOPBACK = ("127.0.0.1", "localhost", "[::1]")


@dataclass(frozen=True)
class Group:
    """Accounts that act together.

    Attributes:
        members: their ids, as far as they are listed.
        edges: pairs of ids with what ties them, in a few words.
        suspicion: of the group as one account; 1 is the alarm.
        reason: in one sentence.
        size: how many members there are; 0: all are listed.
    """

    members: tuple[str, ...]
    edges: tuple[tuple[str, str, str], ...] = ()
    suspicion: float = 0.0
    reason: str = ""
    size: int = 0


def _no_points(_: bytes) -> Points:
    return np.zeros((0, 2), np.float32)


def _no_groups() -> Sequence[Group]:
    return ()


def _no_state() -> dict[str, object]:
    return {}


@dataclass(frozen=True)
class Board:
    """All that the dashboard and the admin routes need.

    Attributes:
        store: the guard's memory.
        guard: the guard's folder, which keeps the hash of the admin key.
        pepper: of keys.
        tiers: their names.
        traffic: of the service, by minute.
        policy: what suspicion leads to.
        honest: questions of honest accounts in the plane of pictures, float32 [N, 2].
        points_of: an account's latest questions in that plane, from its sketch.
        groups: the clusters as they are now.
        state: of the guard's parts, as `/readyz` shows it.
        hosts: names under which the dashboard may be reached, beside those of this machine.
        secure: whether it is reached by TLS alone.
        counted: whether `traffic` is all of it; false where several processes answer.
    """

    store: Store
    guard: Path
    pepper: bytes
    tiers: tuple[str, ...]
    traffic: Traffic = field(default_factory=Traffic)
    policy: Policy = field(default_factory=Policy)
    honest: Points = field(default_factory=lambda: np.zeros((0, 2), np.float32))
    points_of: Callable[[bytes], Points] = _no_points
    groups: Callable[[], Sequence[Group]] = _no_groups
    state: Callable[[], dict[str, object]] = _no_state
    hosts: tuple[str, ...] = ()
    secure: bool = False
    counted: bool = True
