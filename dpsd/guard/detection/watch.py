"""From questions to suspicion to a level: the asynchronous half of the guard.

Answers never wait for it. What cannot be looked at in time is dropped and counted: detection fails
open, and `/readyz` and the metrics say so.
"""

import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import ThreadpoolController

from dpsd.guard.detection.detectors import DETECTORS, statistics, weights
from dpsd.guard.detection.evidence import Evidence
from dpsd.guard.detection.reference import Reference
from dpsd.guard.detection.sketch import Rows, Sketch
from dpsd.guard.policy import Policy
from dpsd.guard.storage.store import Store, Watched

_GATHER = 0.05  # seconds
_AT_ONCE = 256
_WAITING = 2_000  # observations; about 100 MB at most with 256 images each and 50 features


@dataclass(frozen=True)
class Observation:
    """One request, as the guard sees it.

    Attributes:
        account: its id.
        at: seconds since 1970.
        features: float32 [B, F], of the served model or an embedder.
        answers: probabilities before any defence, float32 [B, K].
        hashes: uint64 [B], near-duplicates differ in few bits; None: from the features.
        wanted: whether it asked for probabilities.
        indicators: kind -> keyed hash of where it came from, as `{"network": "3f..."}`.
    """

    account: str
    at: float
    features: NDArray[np.float32]
    answers: NDArray[np.float32]
    hashes: NDArray[np.uint64] | None = None
    wanted: bool = True
    indicators: Mapping[str, str] = field(default_factory=dict)


class Watch:
    """Looks at observations, one after the other.

    Args:
        store: keeps sketches, evidence, levels and the log.
        reference: what honest traffic looks like.
        policy: what suspicion leads to.
    """

    def __init__(self, store: Store, reference: Reference, policy: Policy) -> None:
        self.store, self.reference, self.policy = store, reference, policy

    def observe(self, seen: Observation) -> Watched:
        """Take in one request: sketch, evidence, suspicion and level of its account."""
        self.observe_all([seen])
        return self.store.watched(seen.account) or Watched(seen.account, b"")

    def observe_all(self, requests: Sequence[Observation]) -> None:
        """Take in requests in their order; each account is read and written once.

        All is computed before anything is written, as charges wait while the store is locked.
        """
        by_account: dict[str, list[Observation]] = {}
        for seen in requests:
            by_account.setdefault(seen.account, []).append(seen)
        looks = [self._look(self.store.watched(a), mine) for a, mine in by_account.items()]
        with self.store.together():
            for look in looks:
                now = self.store.watched(look.after.account)
                again = now != look.before  # by an operator, or another worker
                self._write(self._look(now, look.requests) if again else look)

    def _look(self, before: Watched | None, requests: list[Observation]) -> "_Look":
        """What requests of one account change; nothing is written."""
        watched = before or Watched(requests[0].account, b"")
        sketch, notes = Sketch(watched.sketch), list[_Note]()
        rows, at, wanted = self._questions(requests)
        start = 0
        while start < len(rows):
            end = min(start + sketch.room, len(rows))
            other = np.flatnonzero(wanted[start:end] != wanted[start])
            part = slice(start, start + int(other[0]) if len(other) else end)
            sketch.asked_at(at[part])
            sketch.add(rows.pick(part), bool(wanted[start]), self.reference.benign.spread)
            start = part.stop
            if sketch.room == 0:
                watched = self._window(watched, sketch, float(at[start - 1]), notes)
                sketch.close_window()
        after = replace(watched, sketch=sketch.to_bytes(), updated=requests[-1].at)
        return _Look(requests, before, after, notes)

    def _write(self, look: "_Look") -> None:
        account, last = look.after.account, look.after.updated
        for kind, at, facts in look.notes:
            self.store.note(account, kind, at, **facts)
        self.store.watch(look.after)
        images: dict[tuple[str, str], int] = {}
        for seen in look.requests:
            for name in seen.indicators.items():
                images[name] = images.get(name, 0) + len(seen.features)
        for (kind, indicator), count in images.items():
            self.store.saw(account, kind, indicator, last, count)

    def _questions(
        self, requests: Sequence[Observation]
    ) -> tuple[Rows, NDArray[np.float64], NDArray[np.bool_]]:
        """All questions of the requests, when each was asked, whether for probabilities."""
        counts = [len(seen.features) for seen in requests]
        hashes = [seen.hashes for seen in requests if seen.hashes is not None]
        rows = self.reference.benign.rows(
            np.concatenate([seen.features for seen in requests]),
            np.concatenate([seen.answers for seen in requests]),
            np.concatenate(hashes) if len(hashes) == len(requests) else None,
        )
        at = np.repeat(np.array([seen.at for seen in requests]), counts)
        return rows, at, np.repeat(np.array([seen.wanted for seen in requests]), counts)

    def _window(self, watched: Watched, sketch: Sketch, at: float, notes: list["_Note"]) -> Watched:
        """The account after a whole window; what is to be logged of it is added to the notes."""
        values = statistics(sketch, self.reference.benign)
        e_values = self.reference.e_values(values)
        before = Evidence(watched.windows, watched.begun)
        evidence = self.reference.after(before, values, e_values)
        suspicion = self.reference.suspicion(evidence)
        notes.append(("window", at, {
            "number": evidence.windows, "suspicion": suspicion,
            "statistics": dict(zip(DETECTORS, map(float, values), strict=True)),
            "e_values": dict(zip(DETECTORS, map(float, e_values), strict=True)),
        }))  # fmt: skip
        updated = replace(watched, windows=evidence.windows, begun=evidence.begun,
                          suspicion=suspicion)  # fmt: skip
        settled, facts = settle(
            self.policy,
            updated,
            at,
            reason_of(e_values, weights(self.reference.benign), watched.reason),
        )
        if facts:
            notes.append(("level", at, facts))
        return settled


_Note = tuple[str, float, dict[str, Any]]
"""Kind, time and facts of an event."""


@dataclass(frozen=True)
class _Look:
    """Requests of an account, what was kept of it before and is after, and what is logged."""

    requests: list[Observation]
    before: Watched | None
    after: Watched
    notes: list[_Note]


def settle(
    policy: Policy, watched: Watched, at: float, reason: str
) -> tuple[Watched, dict[str, Any]]:
    """The account with the level that its suspicion leads to, and the facts of a change.

    A level that the operator set by hand stays.

    Returns:
        The account, and what an event `level` is to say; empty where nothing changes.
    """
    if watched.held:
        return replace(watched, reason=watched.reason or reason), {}
    suspicion = max(watched.suspicion, watched.prior)
    level = policy.decide(watched.level, suspicion)
    if level == watched.level:
        return replace(watched, reason=reason), {}
    facts = {"before": watched.level, "level": level, "reason": reason, "suspicion": suspicion,
             "dry_run": policy.dry_run, "by": "policy"}  # fmt: skip
    return replace(watched, level=level, since=at, reason=reason), facts


def reason_of(e_values: NDArray[np.float64], parts: NDArray[np.float64], otherwise: str) -> str:
    """The detectors that speak against a window, the strongest first, as one sentence."""
    gains = (e_values - 1) * parts
    order = np.argsort(-gains)[:2]
    found = [DETECTORS[name].says for i in order if gains[i] > 0.1 and (name := list(DETECTORS)[i])]
    return "; ".join(found) or otherwise


class Background:
    """A thread that hands observations to `Watch.observe_all`, or drops them where too many wait.

    It lets some gather before it looks, so that it disturbs answers little.

    Args:
        observe: looks at observations.
        now_and_then: is called after that, once in `period` seconds at most; None: nothing is.
        period: seconds.

    Attributes:
        dropped: observations that were never looked at.
        failed: those at which looking failed; the last error is `error`.
    """

    def __init__(
        self,
        observe: Callable[[list[Observation]], object],
        now_and_then: Callable[[], object] | None = None,
        period: float = 600.0,
    ) -> None:
        self._observe, self._now_and_then, self._period = observe, now_and_then, period
        self._queue: queue.Queue[Observation | None] = queue.Queue(_WAITING)
        self.dropped = self.failed = 0
        self.error = ""
        self._thread = threading.Thread(target=self._work, name="dpsd-watch", daemon=True)
        self._thread.start()

    def put(self, seen: Observation) -> None:
        """Have it looked at soon; never waits."""
        try:
            self._queue.put_nowait(seen)
        except queue.Full:
            self.dropped += 1

    @property
    def waiting(self) -> int:
        """Observations that were not looked at yet."""
        return self._queue.qsize()

    def drain(self, seconds: float = 10) -> None:
        """Wait until all were looked at, no longer than that."""
        end = time.monotonic() + seconds
        while self._queue.unfinished_tasks and time.monotonic() < end:
            time.sleep(0.01)

    def close(self) -> None:
        """Look at what waits, and stop."""
        self._queue.put(None)
        self._thread.join(10)

    def _work(self) -> None:
        going, last = True, time.monotonic()
        blas = ThreadpoolController().select(user_api="blas")
        while going:
            taken = [self._queue.get()]
            time.sleep(_GATHER)
            while len(taken) < _AT_ONCE and taken[-1] is not None:
                try:
                    taken.append(self._queue.get_nowait())
                except queue.Empty:
                    break
            found = [seen for seen in taken if seen is not None]
            going = len(found) == len(taken)
            try:
                if found:
                    with blas.limit(limits=1):  # small products, and answers need the other cores
                        self._observe(found)
                if self._now_and_then and time.monotonic() - last >= self._period:
                    last = time.monotonic()
                    self._now_and_then()
            except Exception as e:  # detection fails open: the service goes on, and says so
                self.failed += len(found)
                self.error = f"{type(e).__name__}: {e}"
            for _ in taken:
                self._queue.task_done()
