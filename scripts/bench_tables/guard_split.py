"""One attack split over many accounts among honest ones: who is noticed, and what is taken.

The attacker asks about strokes, in an order of the seed, and hides each question among honest ones.
Honest accounts ask over a month about held-out rows. Indicators are simulated: honest accounts come
from few large networks and many small ones, have a few usual clients and began some time in the
year before. The attacker's have a tenth as many networks as accounts and begin within one hour
(`shared`), or a network of their own and begin within a day (`alone`). Clusters are looked for
whenever the attack has asked another step of the ladder.
"""

import time
from argparse import Namespace
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from bench_tables.guard import (
    GUARD,
    HELD_OUT,
    MEDIAN,
    Setting,
    asked,
    rate,
    reference,
    setting,
    strokes,
)
from bench_tables.jobs import Job
from dpsd.attacks.extraction.attacks import ATTACKS
from dpsd.attacks.extraction.clone import Holdings, predict
from dpsd.attacks.extraction.endpoint import Service
from dpsd.attacks.extraction.matrix import KEY
from dpsd.guard.clusters.find import Cluster, find_clusters
from dpsd.guard.detection.calibrate import Stream, all_windows
from dpsd.guard.detection.evidence import Evidence
from dpsd.guard.detection.reference import Reference
from dpsd.guard.detection.sketch import WINDOW, Rows
from dpsd.guard.detection.traffic import honest_accounts
from dpsd.serving.predictor import featured

SPLITS = (1, 10, 100, 1000, 20_000)
SHARES = (0.5, 0.9)
LINKS = ("shared", "alone")
UNSEEN = ((1, 0.5, "shared", "strokes"), (1, 0.9, "shared", "strokes"),
          (100, 0.5, "alone", "strokes"), (100, 0.9, "alone", "strokes"))  # fmt: skip
"""Splits that a guard meets which was never shown images of the attacker's kind."""
STEPS = (200, 400, 600, 800, 1200, 1600, 3200, 6400, 10_000)
_HONEST, _MANY = 2_000, 20_000
_BORN, _HOUR, _DAY = 600.0, 3_600.0, 86_400.0
_NETWORKS, _AGENTS = 600, 12
Numbers = NDArray[np.int64]


@dataclass(frozen=True)
class Account:
    """One account of the simulation.

    Attributes:
        stream: its questions, rows of one bank.
        attack: which of them are the attacker's.
        indicators: numbers.
    """

    stream: Stream
    attack: NDArray[np.bool_]
    indicators: tuple[int, ...]


def jobs(args: Namespace) -> Iterator[Job]:
    """False alarms with clusters on, each split, and one by a guard that was shown no strokes."""
    if _asked_for(args, "clusters-honest"):
        yield Job(GUARD / "clusters-honest.json", {"cell": "clusters-honest"},
                  partial(honest_clusters, args))  # fmt: skip
    splits = [(count, share, link, "") for count in SPLITS for share in SHARES
              for link in (LINKS if count > 1 else LINKS[:1])]  # fmt: skip
    for count, share, link, unseen in [*splits, *UNSEEN]:
        name = f"split-{count}-{round(100 * share)}-{link}{unseen and '-without-'}{unseen}"
        for seed in args.seed or (0,):
            if _asked_for(args, name):
                facts = {"cell": name, "accounts": count, "honest_share": share, "link": link,
                         "seed": seed} | ({"unseen": unseen} if unseen else {})  # fmt: skip
                yield Job(GUARD / f"{name}-seed{seed}.json", facts,
                          partial(split, args, count, share, link, unseen, seed))  # fmt: skip


def _asked_for(args: Namespace, name: str) -> bool:
    return any(fnmatch(name, pattern) for pattern in args.cell)


def honest_clusters(args: Namespace) -> dict[str, Any]:
    """Clusters among the honest accounts of the cell `honest`, behind networks, after a month."""
    start, guard = time.perf_counter(), reference(args)
    seen = asked(args.teachers, 1)
    bank = guard.benign.rows(seen.features, seen.answers)
    people = _honest(seen.bank, HELD_OUT // args.shrink, 3)
    began = time.perf_counter()
    clusters = _clusters(guard, bank, people, np.array([len(a.stream.rows) for a in people]))
    seconds = time.perf_counter() - began
    linked, alike = (_members(clusters, len(people), kind) for kind in (True, False))
    large = np.bincount([a.indicators[0] for a in people])
    shared = np.array([large[a.indicators[0]] >= 20 for a in people])
    return {
        "networks": _NETWORKS, "largest_network": int(large.max()), "clusters": len(clusters),
        "by_clusters": rate(list(linked)), "by_likeness": rate(list(alike)),
        "behind_one_network_with_20": rate(list(linked[shared])),
        "seconds_of_clusters": seconds, "seconds": time.perf_counter() - start,
    }  # fmt: skip


def _members(clusters: list[Cluster], count: int, linked: bool) -> NDArray[np.bool_]:
    """Who is in a cluster at the alarm, linked or alike alone."""
    found = np.zeros(count, bool)
    for cluster in clusters:
        if cluster.suspicion >= 1 and cluster.linked == linked:
            found[list(cluster.members)] = True
    return found


def split(
    args: Namespace, count: int, share: float, link: str, unseen: str, seed: int
) -> dict[str, Any]:
    """Accounts noticed as the attack goes on, and clones from what is answered."""
    start, guard, given = time.perf_counter(), reference(args, unseen), setting(args.teachers)
    steps = STEPS if count <= STEPS[-1] else tuple(10 * m for m in STEPS)
    images = strokes(steps[-1] if count <= STEPS[-1] else STEPS[-1], seed)
    seen, strange = asked(args.teachers, 1), _seen(guard, given, images)
    bank = _together(guard.benign.rows(seen.features, seen.answers), strange)
    honest = _honest(seen.bank, (_MANY if count > STEPS[-1] else _HONEST) // args.shrink, 7 + seed)
    mine = _attackers(seen.bank.classes, len(seen.features), len(images), steps[-1], count, share,
                      link, seed)  # fmt: skip
    alarms = [_alarm(guard, bank, a) for a in mine]
    looked, caught = list[dict[str, Any]](), np.zeros(count, bool)
    free = np.array([a.attack.sum() for a in mine])  # questions that are answered
    for i, alarm in enumerate(alarms):
        if alarm is not None:
            free[i] = mine[i].attack[:alarm].sum()
    everybody = honest + mine
    for m in steps:
        part = np.array([_asked_by(a, m / steps[-1]) for a in mine])
        own = np.array([x is not None and x <= n for x, n in zip(alarms, part, strict=True)])
        counts = np.concatenate([[len(a.stream.rows) for a in honest], part])
        clusters = _clusters(guard, bank, everybody, counts)
        linked, alike = (_members(clusters, len(everybody), kind) for kind in (True, False))
        joined = linked[len(honest) :]
        for i in np.flatnonzero(joined & ~caught):
            free[i] = min(free[i], mine[i].attack[: part[i]].sum())
        caught |= own | joined
        looked.append({
            "asked": m, "own_evidence": float(own.mean()), "by_clusters": float(joined.mean()),
            "noticed": float(caught.mean()),
            "ask_alike": float((linked | alike)[len(honest) :].mean()),
            "honest_by_clusters": int(linked[: len(honest)].sum()),
            "honest_alike": int((linked | alike)[: len(honest)].sum()),
        })  # fmt: skip
    answered, found = int(free.sum()), {}
    for name, n in (("guard off", min(steps[-1], len(images))), ("guard on", answered)):
        found[name] = {"answered": n, "accuracy": _clone(given, images[:n], seed)}
    return {"honest_accounts": len(honest), "steps": looked, "clones": found,
            "seconds": time.perf_counter() - start}  # fmt: skip


def _honest(bank: Any, count: int, seed: int) -> list[Account]:
    """Honest accounts with indicators."""
    rng = np.random.default_rng([seed, 1])
    networks, agents = _popular(rng, _NETWORKS, count), _popular(rng, _AGENTS, count)
    streams = honest_accounts(bank, count, median=MEDIAN, seed=seed)
    return [
        Account(s, np.zeros(len(s.rows), bool),
                (int(networks[i]), _NETWORKS + int(agents[i]),
                 _born(s.at[0] - rng.uniform(0, 365 * _DAY))))
        for i, (_, s) in enumerate(streams)
    ]  # fmt: skip


def _attackers(
    classes: Numbers, honest_rows: int, strange: int, total: int, count: int, share: float,
    link: str, seed: int,
) -> list[Account]:  # fmt: skip
    """The attack's questions in turn to the accounts, each hidden among honest ones."""
    rng, found = np.random.default_rng([seed, 2]), []
    agents = _popular(rng, _AGENTS, count)
    for i in range(count):
        attack = honest_rows + np.arange(i, total, count) % strange
        hidden = rng.integers(0, len(classes), round(len(attack) * share / (1 - share)))
        rows = np.concatenate([attack, hidden])
        order = rng.permutation(len(rows))
        begin = rng.uniform(0, _HOUR if link == "shared" else _DAY)
        at = 9 * _HOUR + begin + np.sort(rng.uniform(0, _DAY, len(rows)))
        stream = Stream(rows[order], at, True)
        network = 10**6 + (i % max(1, count // 10) if link == "shared" else i)
        found.append(Account(stream, (rows >= honest_rows)[order],
                             (network, _NETWORKS + int(agents[i]), _born(at[0]))))  # fmt: skip
    return found


def _popular(rng: np.random.Generator, kinds: int, count: int) -> Numbers:
    """Kinds with a frequency of one over their rank."""
    weights = 1 / np.arange(1, kinds + 1)
    return rng.choice(kinds, count, p=weights / weights.sum()).astype(np.int64)


def _born(at: float) -> int:
    return 10**8 + int(at // _BORN)


def _asked_by(account: Account, part: float) -> int:
    """Questions of an account by the time that the attack has asked this part of its own."""
    return round(part * len(account.stream.rows))


def _alarm(guard: Reference, bank: Rows, account: Account) -> int | None:
    """Questions until an account's own evidence raises the alarm."""
    values, evidence = all_windows(guard.benign, bank, account.stream), Evidence()
    for i, row in enumerate(() if values is None else values):
        evidence = guard.after(evidence, row)
        if evidence.value >= guard.level:
            return (i + 1) * WINDOW
    return None


def _clusters(
    guard: Reference, bank: Rows, people: list[Account], counts: Numbers
) -> list[Cluster]:
    """As the service finds them, of the first `counts` questions of each account."""
    pairs = [(i, n) for i, a in enumerate(people) for n in a.indicators]
    means = np.stack([
        bank.cosines[a.stream.rows[:n]].mean(0) if n else np.zeros(bank.cosines.shape[1])
        for a, n in zip(people, counts, strict=True)
    ]).astype(np.float64)  # fmt: skip
    numbers = {n: k for k, n in enumerate(sorted({n for _, n in pairs}))}
    return find_clusters(
        np.array([i for i, _ in pairs]), np.array([numbers[n] for _, n in pairs]), means,
        counts.astype(np.int64), honest=guard.honest,
    )  # fmt: skip


def _seen(guard: Reference, given: Setting, images: torch.Tensor) -> Rows:
    ask = featured(given.model)
    parts = [ask(part) for part in images.split(512)]
    return guard.benign.rows(torch.cat([f for _, f in parts]).numpy(),
                             torch.cat([a for a, _ in parts]).numpy())  # fmt: skip


def _together(one: Rows, other: Rows) -> Rows:
    return Rows(*(np.concatenate([getattr(one, name), getattr(other, name)])
                  for name in Rows.__dataclass_fields__))  # fmt: skip


def _clone(given: Setting, images: torch.Tensor, seed: int) -> float | None:
    """Accuracy of a clone by distillation from these images; None below ten."""
    if len(images) < 10:
        return None
    holdings = Holdings(images, (len(images),), "cnn-small", passes=8, augment="shift", seed=seed)
    service = Service(given.victim.ask, given.victim.facts, budget=len(images), key=KEY)
    with service as endpoint:
        clone = next(iter(ATTACKS["distillation"].run(endpoint, holdings)))
        said = predict(clone.model, given.test.images[:]).argmax(1)
    return float((said == given.test.labels).double().mean())
