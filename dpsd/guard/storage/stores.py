"""Which store a guard has: a file of SQLite, or a Redis by its address."""

import os
from pathlib import Path

from dpsd.errors import UserError
from dpsd.guard.storage.sqlite_store import SqliteStore
from dpsd.guard.storage.store import Store

_SCHEMES = ("redis://", "rediss://", "unix://", "valkey://", "valkeys://")
VARIABLE = "DPSD_STORE"
"""Names a store where no option does, so that a password need not stand among a process's words."""


def open_store(place: str | Path | None, default: Path) -> Store:
    """The store of this name.

    Args:
        place: an address such as redis://127.0.0.1:6379/0, or a file of SQLite; None: what the
            environment's `DPSD_STORE` says, else `default`.
        default: a file of SQLite.

    Raises:
        UserError: another kind of address, or a store that cannot be used.
    """
    text = str(place or os.environ.get(VARIABLE) or default)
    if "://" not in text:
        return SqliteStore(Path(text))
    if not text.startswith(_SCHEMES):
        scheme = text.split("://")[0]
        raise UserError(f"--store: {scheme}://; accepted: {', '.join(_SCHEMES)}, or a file")
    try:
        from dpsd.guard.storage.redis_store import RedisStore

        return RedisStore(text)
    except ImportError as e:
        raise UserError("--store: Redis needs its client: pip install dpsd[serve]") from e


def shared_address(place: str | Path | None) -> str | None:
    """The Redis address that several workers share, if the store is one."""
    text = str(place or os.environ.get(VARIABLE) or "")
    return text.replace("valkey", "redis", 1) if text.startswith(_SCHEMES) else None
