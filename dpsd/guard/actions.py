"""What an operator does to an account by hand; all of it is logged with who did it."""

import time
from dataclasses import replace

from dpsd.errors import UserError
from dpsd.guard.policy import Policy
from dpsd.guard.store import Store, Watched


def clear(store: Store, account: str, by: str) -> None:
    """Forget the suspicion against an account, what was sketched of it, and its level."""
    store.watch(Watched(account, b"", updated=time.time()))
    store.note(account, "cleared", time.time(), by=by)


def hold(store: Store, policy: Policy, account: str, level: str, by: str, reason: str) -> None:
    """Put an account on a level, where it stays until `release`; an empty level: none.

    Raises:
        UserError: there is no such level.
    """
    if level and policy.level(level) is None:
        known = ", ".join(x.name for x in policy.levels) or "none is configured"
        raise UserError(f"level: {level!r}; accepted: {known}")
    before = store.watched(account) or Watched(account, b"")
    now = time.time()
    store.watch(replace(before, level=level, since=now, held=1, reason=reason, updated=now))
    store.note(account, "held", now, before=before.level, level=level, reason=reason, by=by)


def release(store: Store, account: str, by: str) -> None:
    """Let evidence decide about an account again."""
    before = store.watched(account)
    if before is not None and before.held:
        store.watch(replace(before, held=0, updated=time.time()))
        store.note(account, "released", time.time(), by=by)
