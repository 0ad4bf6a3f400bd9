"""The guard of one service: who may ask now, what the answer goes through, what was seen.

Gating is synchronous and cheap, detection happens in a thread. Limits fail closed, detection fails
open; `state` tells both.
"""

import math
import time
from dataclasses import dataclass

from dpsd.defences import Defence, parse_defence
from dpsd.guard.actions import forget_old
from dpsd.guard.detection.reference import Reference
from dpsd.guard.detection.watch import Background, Observation, Watch
from dpsd.guard.indicators.sharing import Hashes
from dpsd.guard.limits import Limits, Refusal, Tier
from dpsd.guard.policy import Level, Policy
from dpsd.guard.proof_of_work.toll import Toll
from dpsd.guard.storage.store import Account, Store


@dataclass(frozen=True)
class Standing:
    """What holds for an account now.

    Attributes:
        level: of the policy that changes its answers; None: none, or a dry run.
        defences: of its tier and its level, in the order in which they are applied.
        hides_probabilities: whether a defence shows labels alone.
    """

    level: Level | None
    defences: tuple[Defence, ...]
    hides_probabilities: bool


class Guard:
    """Before a model.

    Args:
        store: the memory.
        limits: of accounts, networks and the service.
        policy: what suspicion leads to.
        reference: what honest traffic looks like; None: nothing is detected.
        pepper: of indicators, so that the store holds no network address.
        toll: the work of levels that ask for it; None: they ask for none.
        beside: the same memory for the thread that watches, so that answers do not wait for its
            writing; None: `store`.
        sharing: key that partners hold too, of indicators that may be told; None: nothing is told.
        clusters_every: seconds between looks for accounts that are one hand, while somebody asks.
        keep: seconds after its last question that what was seen of an account is kept.
    """

    def __init__(
        self,
        store: Store,
        limits: Limits,
        policy: Policy,
        reference: Reference | None,
        pepper: bytes,
        toll: Toll | None = None,
        beside: Store | None = None,
        sharing: bytes | None = None,
        clusters_every: float = 600.0,
        keep: float = math.inf,
    ) -> None:
        self.store, self.limits, self.policy = store, limits, policy
        self._toll, self._keep = toll, keep
        self.reference = reference
        self.hashed = Hashes(pepper, sharing)
        self._standings: dict[tuple[str, str, bool], Standing] = {}
        self._beside = beside or store
        self._background = (
            None if reference is None
            else Background(Watch(self._beside, reference, policy).observe_all,
                            self._now_and_then, clusters_every)
        )  # fmt: skip

    def gate(
        self,
        account: Account,
        network: str,
        images: int,
        solution: str = "",
        standing: Standing | None = None,
    ) -> Refusal | None:
        """Charge images, or say why they are not answered now.

        Args:
            account: who asks.
            network: the prefix that the request came from.
            images: in the request, at least 1.
            solution: of a puzzle, from the header `X-Dpsd-Work`; may be empty.
            standing: of the account; None: it is looked up.
        """
        level = (standing or self.standing(account)).level
        if level is not None and level.block:
            return Refusal("blocked", "this account is blocked; ask the operator", None, 403)
        if level is not None and level.work and self._toll is not None:
            watched = self.store.watched(account.id)
            asked = self._toll.demand(account.id, images, watched, solution, time.time())
            if asked is not None:
                return Refusal("work_needed", asked.reason, None, 428, asked.puzzle)
        share = 1.0 if level is None else level.rate
        return self.limits.charge(account, network, images, share)

    def standing(self, account: Account) -> Standing:
        """What holds for an account now: tier and level.

        A level that the operator set by hand holds in a dry run and without a reference too.
        """
        watched = self.store.watched(account.id)
        held = watched is not None and bool(watched.held)
        decided = watched is not None and (held or self._background is not None)
        name = watched.level if watched is not None and decided else ""
        key = (account.tier, name, held)
        if key not in self._standings:
            tier = self.limits.tiers.get(account.tier)
            level = self.policy.level(name) if held else self.policy.effective(name)
            defences = defences_of(tier, level)
            hides = any(d.hides_probabilities for d in defences)
            self._standings[key] = Standing(level, defences, hides)
        return self._standings[key]

    def observe(self, seen: Observation) -> None:
        """Have a request that was answered looked at soon; never waits."""
        if self._background is not None:
            self._background.put(seen)

    def indicators(self, account: Account, **values: str) -> dict[str, str]:
        """Keyed hashes of where a request came from, for `Observation.indicators`.

        Args:
            account: who asks; its reference is an indicator too.
            values: kind -> value, as `network="10.1.2.0/24"`; empty ones are left out.
        """
        found = values | {"reference": account.reference}
        return {kind: self.hashed(kind, value) for kind, value in found.items() if value}

    def _now_and_then(self) -> None:
        """Forget what is old, and look for clusters."""
        from dpsd.guard.clusters.hydra import update_clusters

        if self._keep < math.inf:
            forget_old(self._beside, time.time() - self._keep)
        honest = None if self.reference is None else self.reference.honest
        update_clusters(self._beside, self.policy, time.time(), honest=honest)

    def state(self) -> dict[str, object]:
        """For `/readyz`: how limits and detection are."""
        usable = self.store.usable()
        state: dict[str, object] = {"store": "ok" if usable else "unavailable",
                                    "limits": "ok" if usable else "closed"}  # fmt: skip
        if self._background is None:
            return state | {"detection": "off"}
        b = self._background
        broken = b.dropped + b.failed
        return state | {"detection": "ok" if not broken else "open", "dropped": b.dropped,
                        "failed": b.failed, "waiting": b.waiting}  # fmt: skip

    def drain(self) -> None:
        """Wait until what was observed was looked at, at most ten seconds."""
        if self._background is not None:
            self._background.drain()

    def close(self) -> None:
        """Look at what waits, and let go of the store."""
        if self._background is not None:
            self._background.close()
        self._beside.close()
        self.store.close()


def defences_of(tier: Tier | None, level: Level | None) -> tuple[Defence, ...]:
    """What answers go through, each defence once: a level's takes the place of the tier's."""
    texts = (() if tier is None else tier.defences) + (() if level is None else level.defences)
    return tuple({(d := parse_defence(text)).name: d for text in texts}.values())
