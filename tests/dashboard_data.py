"""A service as its operator may find it: quiet accounts, suspicious ones, a cluster."""

import shutil
import tempfile
from functools import cache
from pathlib import Path

import numpy as np

from dpsd.guard.accounts import add_account
from dpsd.guard.admin_key import make_admin_key
from dpsd.guard.detection.sketch import Sketch
from dpsd.guard.policy import Level, Policy
from dpsd.guard.storage.sqlite_store import SqliteStore
from dpsd.guard.storage.store import Watched
from dpsd.serving.admin.board import Board, Group
from dpsd.serving.traffic import Traffic

PEPPER = bytes(range(32))
TIERS = ("trial", "verified", "trusted")
WINDOWS = 24
NOW = 1_795_732_200.0  # 26 November 2026
LEVELS = (
    Level("observe", 0.5),
    Level("slow", 1.0, rate=0.25),
    Level("marked", 1.3, rate=0.25, defences=("account_marks",)),
    Level("blocked", 1.8, block=True),
)
NAMES = ("Ada Labs", "Birch & Co", "Curlew Imaging", "Delta Press", "Elm Street School", "Fern",
         "Gannet GmbH", "Heron", "Iris Clinic", "Juniper", "Kestrel", "Larch")  # fmt: skip
SUSPECTS = {
    "Fern": (1.42, "slow", "its questions do not come from where honest ones come from; it asks "
                           "the same question in slight variations"),
    "Kestrel": (1.08, "slow", "its questions spread over more of the model than usual"),
    "Juniper": (0.71, "observe", "it asks as regularly as a clock"),
    "Heron": (0.55, "observe", "it asks at hours when honest accounts are quiet"),
}  # fmt: skip


def sketch(points):
    """A sketch whose latest questions lie at these points, float [up to 32, 2]."""
    made = Sketch()
    made.fields["points"][0][: len(points)] = points
    made.fields["pointed"] = len(points)
    return made.to_bytes()


class Clock:
    """A time that tests move."""

    def __init__(self, at=NOW):
        self.at = at

    def __call__(self):
        return self.at


def busy_hour(clock):
    """Traffic of an hour: waves, and a burst of refusals near its end."""
    traffic, rng = Traffic(clock=clock), np.random.default_rng(3)
    for minute in range(60):
        clock.at = NOW - 60 * (59 - minute)
        traffic.answered(int(320 + 180 * np.sin(minute / 6) + rng.integers(0, 90)))
        for _ in range(int(rng.integers(20, 40))):
            traffic.request(200)
        for _ in range(90 if 44 <= minute < 50 else int(rng.integers(0, 4))):
            traffic.request(429)
    return traffic


@cache
def filled_store():
    """A folder with the store of `NAMES`, and their ids."""
    folder = tempfile.TemporaryDirectory(prefix="dpsd-dashboard-")
    store, rng = SqliteStore(Path(folder.name) / "guard.sqlite"), np.random.default_rng(1)
    ids = {}
    for i, name in enumerate(NAMES):
        account, _ = add_account(store, PEPPER, name, TIERS[i % 3])
        ids[name] = account.id
        store.charge(account.id, 137 * (i + 1), NOW, None)
        value, level, reason = SUSPECTS.get(name, (0.05 * (i % 4), "", ""))
        spread = rng.normal(size=(32, 2)) * (2.6 if value > 0.6 else 0.9) + (1.5 * (value > 1))
        for n in range(1, WINDOWS + 1 if level else 1):
            part = value * min(1, (n / WINDOWS) ** 2 + 0.03 * abs(rng.normal()))
            store.note(account.id, "window", NOW - 60 * (WINDOWS - n), number=n, suspicion=part)
        if level:
            store.note(account.id, "level", NOW - 900 + i, before="", level=level, reason=reason,
                       suspicion=value, dry_run=False, by="policy")  # fmt: skip
        store.saw(account.id, "network", f"{7 * i % 5:032x}"[::-1], NOW - 7200, 137)
        store.watch(Watched(account.id, sketch(spread), WINDOWS, 2.0, value, 0.0, level,
                            NOW - 900, 0, reason, NOW))  # fmt: skip
    store.close()
    return folder, ids


def make_board(folder, **changes):
    """A board and its admin key; the store lies in the folder."""
    filled, ids = filled_store()
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(Path(filled.name) / "guard.sqlite", folder)
    store = SqliteStore(folder / "guard.sqlite")
    honest = np.random.default_rng(2).normal(size=(500, 2)) * [1.6, 0.7] + [[0.5, 0.2]]
    members = tuple(ids[name] for name in ("Fern", "Kestrel", "Juniper", "Larch", "Heron"))
    ties = ((0, 1, "same network"), (0, 2, "same network"), (1, 2, "ask alike"),
            (2, 3, "same reference"), (0, 4, "ask alike"), (1, 4, "same network"))  # fmt: skip
    edges = tuple((members[a], members[b], why) for a, b, why in ties)
    reason = "5 accounts share a network and ask alike; together they cover the model."
    group = Group(members, edges, 1.61, reason)
    board = Board(
        store, folder, PEPPER, TIERS,
        **{"traffic": busy_hour(Clock()), "policy": Policy(LEVELS, dry_run=False),
           "honest": honest.astype(np.float32),
           "points_of": lambda content: Sketch(content).points(),
           "groups": lambda: [group],
           "state": lambda: {"store": "ok", "limits": "ok", "detection": "ok"}} | changes,
    )  # fmt: skip
    return board, make_admin_key(folder, PEPPER), ids
