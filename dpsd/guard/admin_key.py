"""The operator's key: it opens the dashboard and the admin routes, and is no account's.

A key is `dpsd_admin_<secret>` with 256 random bits. A file beside the store has its HMAC under the
pepper, so that the file alone opens nothing.
"""

import hmac
import secrets
from pathlib import Path

from dpsd.files import whole_file
from dpsd.guard.accounts import hash_secret

_HEAD = "dpsd_admin_"
_NOBODY = "0" * 64  # compared with where there is no key, so that both take as long


def admin_file(guard: Path) -> Path:
    """Where a guard's folder keeps the hash of its admin key."""
    return guard / "admin"


def make_admin_key(guard: Path, pepper: bytes) -> str:
    """A new admin key, which nobody can show again; an older one is void at once.

    Raises:
        UserError: the hash cannot be written.
    """
    secret = secrets.token_urlsafe(32)
    with whole_file(admin_file(guard)) as partial:
        partial.touch(mode=0o600)
        partial.write_text(_hash(pepper, secret))
    return _HEAD + secret


def admin_hash(guard: Path) -> str:
    """The hash of the admin key as it is now; empty: there is none, and no key opens anything."""
    try:
        return admin_file(guard).read_text().strip()
    except FileNotFoundError:
        return ""


def is_admin(guard: Path, pepper: bytes, key: str) -> bool:
    """Whether a key is the admin key; the comparison takes as long for every key."""
    expected = admin_hash(guard)
    head, secret = key[: len(_HEAD)], key[len(_HEAD) :]
    same = hmac.compare_digest(_hash(pepper, secret), expected or _NOBODY)
    return same and head == _HEAD and bool(expected)


def _hash(pepper: bytes, secret: str) -> str:
    return hash_secret(pepper, f"admin {secret}")
