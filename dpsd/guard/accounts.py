"""Accounts and their keys.

A key is `dpsd_<account id>_<secret>`; the secret has 256 random bits. The store has its HMAC
(SHA-256) under a pepper that lies in a file of its own, so that the store alone opens no account.
"""

import hmac
import os
import secrets
import time
from dataclasses import replace
from pathlib import Path

from dpsd.errors import UserError
from dpsd.files import make_once
from dpsd.guard.storage.store import Account, Store

_PEPPER = 32  # bytes
_NOBODY = "0" * 64  # compared with where there is no account, so that both take as long


def read_pepper(path: Path) -> bytes:
    """The pepper of a guard, made on first use (mode 0600).

    Raises:
        UserError: the file is no pepper.
    """
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        make_once(path, os.urandom(_PEPPER))
    pepper = path.read_bytes()
    if len(pepper) != _PEPPER:
        raise UserError(f"{path}: {len(pepper)} bytes; accepted: {_PEPPER}, as the guard made it")
    return pepper


def add_account(
    store: Store,
    pepper: bytes,
    name: str,
    tier: str,
    *,
    expires: float | None = None,
    reference: str = "",
) -> tuple[Account, str]:
    """A new account and its key, which nobody can show again.

    Raises:
        UserError: an empty or overlong name, or one that is taken.
    """
    if not 0 < len(name) <= 100 or not name.isprintable():
        raise UserError(f"account: {name!r}; accepted: 1 to 100 printable characters")
    id = secrets.token_hex(8)
    secret = secrets.token_urlsafe(32)
    account = Account(id, name, tier, "active", hash_secret(pepper, secret), time.time(), expires,
                      reference)  # fmt: skip
    store.add(account)
    return account, f"dpsd_{id}_{secret}"


def rotate_key(store: Store, pepper: bytes, name: str) -> str:
    """A new key for an account; the old one is void at once.

    Raises:
        UserError: there is no such account.
    """
    account = store.by_name(name)
    secret = secrets.token_urlsafe(32)
    store.change(replace(account, key_hash=hash_secret(pepper, secret)))
    store.note(account.id, "key rotated", time.time())
    return f"dpsd_{account.id}_{secret}"


def who(store: Store, pepper: bytes, key: str) -> Account | None:
    """The account of a key; None for any key that is not one of an account.

    The comparison takes as long for a wrong secret as for an unknown account.
    """
    head, _, rest = key.partition("_")
    id, _, secret = rest.partition("_")
    account = store.by_id(id) if head == "dpsd" and id.isalnum() else None
    expected = _NOBODY if account is None else account.key_hash
    same = hmac.compare_digest(hash_secret(pepper, secret), expected)
    return account if same and account is not None else None


def hash_secret(pepper: bytes, secret: str) -> str:
    """HMAC-SHA-256 of a key's secret part, in hexadecimal."""
    return hmac.digest(pepper, secret.encode(), "sha256").hex()
