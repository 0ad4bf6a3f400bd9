"""What 10,000 questions give one attacker: guard off, the ready-made configurations, marks alone.

One account of a tier asks about strokes as fast as it is let, within one day. Limits a minute hold
nobody up for a day, so that the day's limit counts alone; suspicion and levels follow from what it
asked before. Where the guard refuses, the attack trains its clone from what was answered until
then. `marked` is `serve-full` without the level that blocks: what honey and marks do alone.
"""

import tempfile
import time
from argparse import Namespace
from collections.abc import Iterator
from dataclasses import replace
from fnmatch import fnmatch
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bench_tables.guard import GUARD, Setting, reference, setting, strokes
from bench_tables.jobs import ROOT, Job
from dpsd.attacks.extraction.attacks import ATTACKS
from dpsd.attacks.extraction.clone import Holdings, predict
from dpsd.attacks.extraction.endpoint import Service
from dpsd.defences import AccountMarks, Cosine, answered, parse_defence
from dpsd.defences.account_marks import is_marked, mark_label
from dpsd.errors import UserError
from dpsd.guard.detection.reference import Reference
from dpsd.guard.detection.watch import Observation, Watch
from dpsd.guard.guard import defences_of
from dpsd.guard.limits import Tier
from dpsd.guard.policy import Policy
from dpsd.guard.storage.sqlite_store import SqliteStore
from dpsd.hardening.statistics import mark_p_value
from dpsd.hardening.waves import wave_test
from dpsd.serving.predictor import featured
from dpsd.serving.settings import read_settings

ASKED = 10_000
ATTACKERS = ("basic", "augmented", "mixup", "distillation", "active")
CELLS = {
    "value-off": (None, "trusted"),
    "value-basic-trial": ("basic", "trial"),
    "value-basic-verified": ("basic", "verified"),
    "value-watch-trial": ("watch", "trial"),
    "value-watch-verified": ("watch", "verified"),
    "value-full-verified": ("full", "verified"),
    "value-marked-trusted": ("full", "trusted"),
}
_BATCH, _PAUSE = 16, 2.0
_ACCOUNT, _SECRET = "attacker", bytes(range(32))


def jobs(args: Namespace) -> Iterator[Job]:
    """One file for each configuration and tier."""
    for name, (config, tier) in CELLS.items():
        if any(fnmatch(name, pattern) for pattern in args.cell):
            facts = {"cell": name, "config": config, "tier": tier, "asked": ASKED, "seed": 0}
            yield Job(GUARD / f"{name}-seed0.json", facts,
                      partial(measure, args, config, tier, "marked" in name))  # fmt: skip


def measure(args: Namespace, config: str | None, tier: str, marked: bool) -> dict[str, Any]:
    """Each attack against one configuration."""
    guard, given = reference(args), setting(args.teachers)
    images = strokes(2 * ASKED // args.shrink, 0)
    victim = float((predict(given.model, given.test.images[:]).argmax(1)
                    == given.test.labels).double().mean())  # fmt: skip
    name = "serve.yaml" if config is None else f"serve-{config}.yaml"
    settings = read_settings(ROOT / "configs" / name)
    policy = settings.policy_table()
    if marked:
        policy = replace(policy, levels=tuple(x for x in policy.levels if not x.block))
    served = Tier(1) if config is None else settings.tier_table()[tier]
    watching = config is not None and settings.detection.watch
    start, runs = time.perf_counter(), []
    for attack in ATTACKERS:
        with tempfile.TemporaryDirectory() as folder:
            make = partial(Served, guard if watching else None, given, served, policy)
            runs.append(_attacked(make, Path(folder), given, images, attack, victim))
        print(runs[-1], flush=True)
    stopped = [r["accuracy"] is None or r["accuracy"] < 0.9 * victim for r in runs]
    return {"victim": victim, "runs": runs, "stopped": sum(stopped) / len(stopped),
            "seconds": time.perf_counter() - start}  # fmt: skip


class Served:
    """The victim behind one configuration, as one account meets it.

    Attributes:
        answered: images so far.
        refused: why no more are answered; empty while they are.
        levels: of the policy that the account met, in turn.
        marked: images whose answers had the account's mark.
    """

    def __init__(
        self, guard: Reference | None, given: Setting, tier: Tier, policy: Policy, path: Path
    ) -> None:
        self.tier, self._policy, self._ask = tier, policy, featured(given.model)
        self._store = SqliteStore(path)
        self._watch = None if guard is None else Watch(self._store, guard, policy)
        self.answered, self.refused, self.levels = 0, "", [""]
        self.marked = list[Tensor]()

    def __call__(self, images: Tensor) -> Tensor:
        """Answers, or a `UserError` from where the guard refuses."""
        return torch.cat([self._answer(part) for part in images.split(_BATCH)])

    def _answer(self, images: Tensor) -> Tensor:
        watched = self._store.watched(_ACCOUNT)
        level = self._policy.effective("" if watched is None else watched.level)
        if level is not None and level.name != self.levels[-1]:
            self.levels.append(level.name)
        most = self.tier.per_day or 10**9
        if level is not None and level.block:
            self.refused = "blocked"
        elif self.answered + len(images) > most * (1.0 if level is None else level.rate):
            self.refused = "the day's images are spent"
        if self.refused:
            raise UserError(self.refused)
        said, features = self._ask(images)
        self.answered += len(images)
        if self._watch is not None:
            at = 9e5 + self.answered / _BATCH * _PAUSE
            self._watch.observe(Observation(_ACCOUNT, at, features.numpy(), said.numpy()))
        defences = defences_of(self.tier, level)
        for mark in (d for d in defences if isinstance(d, AccountMarks)):
            self.marked.append(images[is_marked(images, _SECRET, _ACCOUNT, mark.share)])
        return answered(said, images, defences, _SECRET, _ACCOUNT).float()

    def close(self) -> None:
        """Let go of the store."""
        self._store.close()


def _attacked(
    make: Any, folder: Path, given: Setting, images: Tensor, attack: str, victim: float
) -> dict[str, Any]:
    """Ask until the guard refuses; then the clone from what was answered."""
    most = min(ASKED, len(images) // 2)
    served = make(folder / "first.sqlite")
    clone = _clone(served, given, images, attack, most)
    n, refused, levels = served.answered, served.refused, served.levels
    served.close()
    if refused and n >= _BATCH:
        again = make(folder / "again.sqlite")
        clone = _clone(again, given, images, attack, n)
        served = again
        served.close()
    found: dict[str, Any] = {"attack": attack, "answered": n, "refused": refused, "levels": levels,
                             "accuracy": None, "wave": None, "account_mark": None}  # fmt: skip
    if clone is None:
        return found
    said = predict(clone, given.test.images[:]).argmax(1)
    for wave in (d for d in map(parse_defence, served.tier.defences) if isinstance(d, Cosine)):
        probes = given.pool[:3000]
        found["wave"] = wave_test(predict(clone, probes), given.victim.ask(probes), probes,
                                  _SECRET, wave.frequency, keys=200).p_value  # fmt: skip
    if served.marked and len(marked := torch.cat(served.marked)):
        named, copied = given.victim.ask(marked).argmax(1), predict(clone, marked).argmax(1)
        classes = given.victim.facts.classes
        repeated = copied == mark_label(marked, _SECRET, _ACCOUNT, named, classes)
        found["account_mark"] = mark_p_value(int(repeated.sum()), int((copied != named).sum()),
                                             classes)  # fmt: skip
    return found | {"accuracy": float((said == given.test.labels).double().mean())}


def _clone(
    served: Served, given: Setting, images: Tensor, attack: str, n: int
) -> torch.nn.Module | None:
    """The clone of an attack with so many questions; None where it was refused before."""
    holdings = Holdings(images, (n,), "cnn-small", passes=8, augment="shift", seed=0)
    service = Service(served, given.victim.facts, budget=n, key=_SECRET)
    try:
        with service as endpoint:
            return [*ATTACKS[attack].run(endpoint, holdings)][-1].model
    except UserError:
        if not served.refused:
            raise
        return None
