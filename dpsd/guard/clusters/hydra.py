"""Clusters of a store's accounts: found from what it holds, and written back as prior suspicion.

`update_clusters` reads and writes what the detectors hold. Run it in the thread that observes, or
while nobody does, so that neither overwrites what the other wrote.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from dpsd.guard.clusters.find import Cluster, find_clusters
from dpsd.guard.clusters.links import Ints
from dpsd.guard.detection.sketch import Sketch
from dpsd.guard.detection.variation import LEAST, Honest
from dpsd.guard.detection.watch import settle
from dpsd.guard.policy import Policy
from dpsd.guard.storage.store import Seen, Store, Watched

IMPORTED = "shared:"
"""Begins the ids under which indicators of other operators are kept; no account has such an id."""
_BORN = 600  # seconds; accounts that begin in the same ten minutes share an indicator
_ALONE = 0.9  # prior suspicion of accounts that only ask alike: watched, and no alarm
_TRACE = 0.5  # prior suspicion of who shares all its indicators with blocked accounts alone
_STEP = 0.01  # changes of prior suspicion below this are not written
_LISTED = 20  # clusters in the log, and members of each


@dataclass(frozen=True)
class Population:
    """A store's accounts as arrays.

    Attributes:
        ids: of the accounts.
        sketches: of each.
        accounts, numbers: positions and numbers of indicators, int64 [M]; one row for each
            indicator of each account.
        names: `kind:hash` of each number.
    """

    ids: tuple[str, ...]
    sketches: tuple[Sketch, ...]
    accounts: Ints
    numbers: Ints
    names: tuple[str, ...]

    @property
    def asked(self) -> Ints:
        """Questions of each account, int64 [N]."""
        return np.array([int(s["asked"]) for s in self.sketches], np.int64)

    @property
    def deviations(self) -> NDArray[np.float64]:
        """Of each account's mean question from the honest one, float64 [N, 256]."""
        rows = [s.direction() for s in self.sketches]
        return np.array(rows, np.float64).reshape(len(rows), -1)


def population(watched: Sequence[Watched], seen: Sequence[Seen]) -> Population:
    """Accounts, sketches and indicators: those that were seen, beginnings, and equal questions."""
    place = {w.account: i for i, w in enumerate(watched)}
    sketches = tuple(Sketch(w.sketch) for w in watched)
    found = list[tuple[int, str]]()
    for s in seen:
        if s.account in place:
            found.append((place[s.account], f"{s.kind}:{s.indicator}"))
    for i, sketch in enumerate(sketches):
        if (first := float(sketch["first"])) > 0:
            found.append((i, f"born:{int(first // _BORN)}"))
        asked = set(map(int, sketch["hashes"][: int(min(sketch["hashed"], 64))]))
        found += [(i, f"query:{h:016x}") for h in asked]
    names = sorted({name for _, name in found})
    number = {name: i for i, name in enumerate(names)}
    return Population(
        tuple(place), sketches, np.array([i for i, _ in found], np.int64),
        np.array([number[name] for _, name in found], np.int64), tuple(names),
    )  # fmt: skip


def update_clusters(
    store: Store,
    policy: Policy,
    at: float,
    *,
    honest: Honest | None = None,
    alpha: float = 0.02,
    seed: int = 0,
) -> list[tuple[tuple[str, ...], Cluster]]:
    """Find clusters, and set the prior suspicion of their members and of who resembles them.

    A member has the suspicion of its cluster (0.9 at most where members only ask alike). An account
    inherits suspicion by the indicators that it shares with blocked accounts, with accounts at the
    alarm and with those that other operators reported. Priors fall again when the reason is gone.

    Args:
        store: of the guard.
        policy: what suspicion leads to; changes of level are logged.
        at: seconds since 1970.
        honest: variation of the reference's accounts; None: estimated from the store's.
        alpha: rate of false clusters a call.
        seed: of the shuffles.

    Returns:
        Ids of the members, and the cluster; the most suspicious first. None where there are too few
        accounts to compare.
    """
    watched, seen = store.all_watched(), store.seen()
    people = population(watched, seen)
    asked = people.asked
    clusters = list[Cluster]()
    if (asked > 0).sum() >= 2 * LEAST or (honest is not None and (asked > 0).sum() >= 2):
        clusters = find_clusters(people.accounts, people.numbers, people.deviations, asked,
                                 alpha=alpha, seed=seed, honest=honest)  # fmt: skip
    named = [(tuple(people.ids[m] for m in c.members), c) for c in clusters]
    priors = dict[str, tuple[float, str]]()
    for members, cluster in reversed(named):
        most = cluster.suspicion if cluster.linked else min(cluster.suspicion, _ALONE)
        for id in members:
            if most > priors.get(id, (0.0, ""))[0]:
                priors[id] = (most, f"one of {cluster.reason}")
    bad = {a.id for a in store.accounts() if a.state == "blocked"}
    bad |= {w.account for w in watched if w.suspicion >= 1}
    bad |= {id for id, (prior, _) in priors.items() if prior >= 1}
    bad |= {s.account for s in seen if s.account.startswith(IMPORTED)}
    for id, share in inherited(seen, bad).items():
        if _TRACE * share > priors.get(id, (0.0, ""))[0]:
            priors[id] = (_TRACE * share, "it shares indicators with accounts that were blocked")
    for old in watched:
        prior, reason = priors.get(old.account, (0.0, ""))
        if abs(prior - old.prior) >= _STEP or (prior == 0) != (old.prior == 0):
            _write(store, policy, old.account, prior, reason, at)
    facts = [_facts(members, cluster) for members, cluster in named[:_LISTED]]
    store.note("", "clusters", at, found=len(named), clusters=facts)
    return named


def inherited(seen: Sequence[Seen], bad: set[str]) -> dict[str, float]:
    """How much each account shares with bad ones and with nobody else: 0 to 1.

    An indicator counts by the bad share of its other accounts, so that a NAT with hundreds of
    accounts proves nothing about one of them. Indicators are taken as independent.

    Args:
        seen: of all accounts.
        bad: ids of accounts that were blocked, reached the alarm, or were reported by others.
    """
    by_indicator = dict[tuple[str, str], set[str]]()
    for s in seen:
        by_indicator.setdefault((s.kind, s.indicator), set()).add(s.account)
    clean = dict[str, float]()
    for accounts in by_indicator.values():
        shares = len(accounts & bad)
        if not shares:
            continue
        for id in accounts - bad:
            clean[id] = clean.get(id, 1.0) * (1 - shares / (len(accounts) - 1))
    return {id: 1 - rest for id, rest in clean.items()}


def _write(store: Store, policy: Policy, id: str, prior: float, reason: str, at: float) -> None:
    """Set a prior in what the store holds now; its level follows."""
    now = store.watched(id)
    if now is None:  # forgotten meanwhile
        return
    store.note(id, "prior", at, prior=prior, reason=reason)
    settled, facts = settle(policy, replace(now, prior=prior), at, reason or now.reason)
    if facts:
        store.note(id, "level", at, **facts)
    store.watch(settled)


def _facts(members: tuple[str, ...], cluster: Cluster) -> dict[str, object]:
    """A cluster for the log."""
    listed = members[:_LISTED]
    place = dict(zip(cluster.members, members, strict=True))
    edges = [(place[a], place[b], round(w, 2)) for a, b, w in cluster.edges]
    return {
        "members": list(listed), "size": len(members), "linked": cluster.linked,
        "suspicion": round(cluster.suspicion, 3), "asked": cluster.asked,
        "reason": cluster.reason, "score": round(cluster.score, 2),
        "null": round(cluster.null, 2),
        "edges": [e for e in edges if e[0] in listed and e[1] in listed],
    }  # fmt: skip
