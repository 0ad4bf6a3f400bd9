"""What the pages show, as plain values: no HTML here and no HTTP."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from markupsafe import Markup

from dpsd.guard.actions import undoable
from dpsd.guard.explain import sentence
from dpsd.guard.storage.store import SILENT, Account, Watched
from dpsd.serving.admin.board import Board, Group
from dpsd.serving.admin.drawing import bars, cloud, course, graph, meter

NEAR = 0.5  # of the alarm: from there an account is listed
CARDS, ROWS = 24, 50  # on a page
_WINDOWS = 600  # of an account that are drawn
_NOTHING = np.zeros((0, 2), np.float32)
_WINDOW = "window"


@dataclass(frozen=True)
class Seen:
    """An account as the pages show it.

    Attributes:
        account: who.
        watched: what the detectors hold of it.
        images: asked so far.
        suspicion: its own or what it inherits, whichever is larger.
        level: of the policy, or blocked.
        reason: of the level, in one sentence.
        meter, cloud: pictures.
    """

    account: Account
    watched: Watched | None
    images: int
    suspicion: float
    level: str
    reason: str
    meter: Markup
    cloud: Markup


def seen(board: Board, account: Account, watched: Watched | None, drawn: bool = True) -> Seen:
    """An account with its pictures; the cloud only where it is drawn."""
    suspicion = max(watched.suspicion, watched.prior) if watched else 0.0
    level = "blocked" if account.state == "blocked" else (watched.level if watched else "")
    points = board.points_of(watched.sketch if watched else b"") if drawn else _NOTHING
    return Seen(
        account, watched, board.store.spent(account.id), suspicion, level,
        _reason(watched, suspicion), meter(suspicion, account.name),
        cloud(board.honest if drawn else _NOTHING, points, account.name),
    )  # fmt: skip


def _reason(watched: Watched | None, suspicion: float) -> str:
    if watched is None or (not watched.windows and not watched.reason):
        return "It has not asked enough to say anything."
    if watched.reason:
        return sentence(watched.reason)
    if suspicion < NEAR:
        return f"{watched.windows:,} windows of questions look like honest traffic."
    if watched.prior > watched.suspicion:
        return "It resembles accounts that were suspicious before."
    return f"{watched.windows:,} windows of questions begin to differ from honest traffic."


def suspicious(board: Board) -> list[Watched]:
    """Accounts from half of the alarm on, the most suspicious first."""
    return board.store.all_watched(NEAR)


def cards(board: Board, watched: Sequence[Watched]) -> list[Seen]:
    """Accounts with their pictures; those that were deleted in the meantime are left out."""
    found = ((board.store.by_id(w.account), w) for w in watched[:CARDS])
    return [seen(board, account, w) for account, w in found if account is not None]


def traffic(board: Board) -> dict[str, Any]:
    """Numbers of the service now."""
    minutes = board.traffic.minutes()
    requests, refused = (sum(getattr(m, n) for m in minutes) for n in ("requests", "refused"))
    found = suspicious(board)
    return {
        "charts": [(what, max(getattr(m, what) for m in minutes), bars(minutes, what))
                   for what in ("images", "requests")],
        "images_now": minutes[-1].images, "requests_now": minutes[-1].requests,
        "images_hour": sum(m.images for m in minutes), "refused_hour": refused,
        "requests_hour": requests, "suspicious": len(found),
        "alarms": sum(max(w.suspicion, w.prior) >= 1 for w in found),
        "counted": board.counted, "state": board.state(), "at": time.time(),
    }  # fmt: skip


@dataclass(frozen=True)
class Line:
    """An event as the log shows it.

    Attributes:
        at: seconds since 1970.
        account: its id; empty: of the dashboard itself.
        name: of the account.
        kind: of the event.
        by: who did it; the guard where nobody is named.
        says: the facts in words.
    """

    at: float
    account: str
    name: str
    kind: str
    by: str
    says: str


def log(board: Board, most: int) -> list[Line]:
    """What the policy and operators did, newest first; windows are left out."""
    found = board.store.recent_actions(most)
    names = {}
    for id in {e["account"] for e in found}:
        account = board.store.by_id(id) if id else None
        names[id] = account.name if account else ""
    return [_line(e, e["account"], names[e["account"]]) for e in found]


@dataclass(frozen=True)
class Past:
    """What happened to an account.

    Attributes:
        lines: what was done to it, newest first.
        course: its suspicion after each window as a picture.
        windows: of the picture.
        undo: the operator's latest step that may be taken back; empty: none.
    """

    lines: list[Line]
    course: Markup
    windows: int
    undo: str


def past(board: Board, account: Account) -> Past:
    """What happened to an account."""
    events = board.store.events(account.id)
    values = [float(e["suspicion"]) for e in events if e["kind"] == _WINDOW and "suspicion" in e]
    lines = [_line(e, account.id, account.name) for e in events if e["kind"] not in SILENT]
    step = undoable(events)
    drawn = course(values[-_WINDOWS:], account.name)
    return Past(lines[::-1][:ROWS], drawn, len(values), step["kind"] if step else "")


def _line(event: dict[str, Any], account: str, name: str) -> Line:
    words = []
    if "level" in event or "tier" in event:
        new = event.get("level", event.get("tier"))
        words.append(f"from {event.get('before') or 'none'} to {new or 'none'}")
    words += [f"{k} {event[k]:.2f}" for k in ("suspicion", "prior") if k in event]
    words += [str(event[k]) for k in ("step", "reason", "says") if event.get(k)]
    if event.get("dry_run"):
        words.append("dry run: nothing changes")
    says = "; ".join(words)
    return Line(event["at"], account, name, event["kind"], str(event.get("by", "guard")), says)


@dataclass(frozen=True)
class Cluster:
    """A cluster as the page shows it."""

    group: Group
    members: list[Account]
    graph: Markup
    meter: Markup


def clusters(board: Board) -> list[Cluster]:
    """The clusters with their pictures, the most suspicious first."""
    groups = sorted(board.groups(), key=lambda g: (-g.suspicion, -len(g.members)))[:CARDS]
    out = []
    for i, group in enumerate(groups):
        found = [a for a in map(board.store.by_id, group.members) if a is not None]
        names = {a.id: a.name for a in found}
        blocked = {a.id for a in found if a.state == "blocked"}
        out.append(Cluster(group, found, graph(group, names, blocked),
                           meter(group.suspicion, f"cluster {i + 1}")))  # fmt: skip
    return out
