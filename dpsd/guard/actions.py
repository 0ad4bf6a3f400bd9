"""What an operator does to an account by hand, and how it is taken back.

Each step is one event with who did it and, under `was`, what `undo` puts back.
"""

import time
from collections.abc import Collection, Sequence
from dataclasses import asdict, replace
from typing import Any

from dpsd.errors import UserError
from dpsd.guard.policy import Policy
from dpsd.guard.storage.store import Account, Store, Watched

_LEVEL = ("level", "since", "held", "reason")
_EVIDENCE = ("windows", "begun", "suspicion", "prior", *_LEVEL)
_KINDS = ("cleared", "held", "released", "blocked", "unblocked")
_UNDONE = "undone"


def clear(store: Store, account: str, by: str) -> None:
    """Forget the suspicion against an account, what was sketched of it, its level and its block."""
    before, now = _watched(store, account), time.time()
    known = store.by_id(account)
    blocked = known is not None and known.state == "blocked"
    was = _parts(before, _EVIDENCE) | ({"state": "blocked"} if blocked else {})
    store.note(account, "cleared", now, by=by, was=was)
    store.watch(Watched(account, b"", updated=now))
    if known is not None and blocked:
        store.change(replace(known, state="active"))


def hold(store: Store, policy: Policy, account: str, level: str, by: str, reason: str) -> None:
    """Put an account on a level, where it stays until `release`; an empty level: none.

    Raises:
        UserError: there is no such level.
    """
    if level and policy.level(level) is None:
        known = ", ".join(x.name for x in policy.levels) or "none is configured"
        raise UserError(f"level: {level!r}; accepted: {known}")
    before, now = _watched(store, account), time.time()
    store.note(account, "held", now, before=before.level, level=level, reason=reason, by=by,
               was=_parts(before, _LEVEL))  # fmt: skip
    store.watch(replace(before, level=level, since=now, held=1, reason=reason, updated=now))


def release(store: Store, account: str, by: str) -> None:
    """Let evidence decide about an account again."""
    before = store.watched(account)
    if before is not None and before.held:
        now = time.time()
        store.note(account, "released", now, by=by, was=_parts(before, _LEVEL))
        store.watch(replace(before, held=0, updated=now))


def block(store: Store, account: str, by: str) -> None:
    """Answer an account no more, whatever the policy says.

    Raises:
        UserError: there is no such account.
    """
    _set_state(store, account, "blocked", "blocked", by)


def unblock(store: Store, account: str, by: str) -> None:
    """Answer an account again.

    Raises:
        UserError: there is no such account.
    """
    _set_state(store, account, "active", "unblocked", by)


def undoable(events: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """The operator's latest step that was not taken back; None: there is none.

    Args:
        events: of one account, oldest first.
    """
    steps: list[dict[str, Any]] = []
    for event in events:
        if event["kind"] in _KINDS and "was" in event:
            steps.append(event)
        elif event["kind"] == _UNDONE and steps:
            steps.pop()
    return steps[-1] if steps else None


def undo(store: Store, account: str, by: str) -> str:
    """Take the operator's latest step back: what it changed becomes what it was.

    What was sketched before `clear` does not come back; the evidence does.

    Returns:
        The kind of the step that was taken back.

    Raises:
        UserError: nothing was done by hand, or there is no such account.
    """
    known, step = _account(store, account), undoable(store.events(account))
    if step is None:
        raise UserError(f"undo: nothing was done to the account {known.name} by hand")
    was = dict(step["was"])
    state = was.pop("state", known.state)
    store.note(account, _UNDONE, time.time(), by=by, step=step["kind"])
    if was:
        store.watch(replace(_watched(store, account), **was))
    if state != known.state:
        store.change(replace(known, state=state))
    return str(step["kind"])


def change_tier(store: Store, account: str, tier: str, tiers: Collection[str], by: str) -> None:
    """Move an account to another tier.

    Raises:
        UserError: there is no such account, or the service has no such tier.
    """
    known = _account(store, account)
    check_tier(tier, tiers)
    store.note(account, "tier", time.time(), by=by, before=known.tier, tier=tier)
    store.change(replace(known, tier=tier))


def check_tier(tier: str, tiers: Collection[str]) -> None:
    """Refuse a tier that the service does not have.

    Raises:
        UserError: it has none of this name; says which there are.
    """
    if tier not in tiers:
        raise UserError(f"tier: {tier!r}; accepted: {', '.join(tiers)}")


def _set_state(store: Store, account: str, state: str, kind: str, by: str) -> None:
    known = _account(store, account)
    if known.state != state:
        store.note(account, kind, time.time(), by=by, was={"state": known.state})
        store.change(replace(known, state=state))


def _account(store: Store, id: str) -> Account:
    found = store.by_id(id)
    if found is None:
        raise UserError(f"account: {id!r} is unknown")
    return found


def _watched(store: Store, account: str) -> Watched:
    return store.watched(account) or Watched(account, b"")


def _parts(watched: Watched, names: Collection[str]) -> dict[str, Any]:
    return {name: value for name, value in asdict(watched).items() if name in names}


def forget_old(store: Store, before: float) -> int:
    """Delete what was seen of accounts that have asked nothing since; how many there were.

    What an operator holds at a level stays.

    Args:
        store: of the guard.
        before: seconds since 1970.
    """
    old = [w.account for w in store.all_watched() if w.updated < before and not w.held]
    for account in old:
        store.forget_traces(account)
    return len(old)
