"""What operators may tell each other: indicators under a key that both hold, and no account.

A guard hashes indicators under its pepper, which nobody shares. Once it has a sharing key, it
hashes what may be shared (`SHARED`) under that key from then on, so that partners with the same key
get equal hashes for equal values. Payment references stay under the pepper.

What leaks: who holds the key can try all 16.7 million IPv4 prefixes, and knows them all within a
minute; `plain_networks` does just that. To partners a hashed IPv4 network is therefore as good as
plain, and so is a usual browser's name. To all others a hash says nothing.
"""

import hmac
import json
import math
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from dpsd.errors import UserError
from dpsd.files import make_once
from dpsd.guard.detection.sketch import Sketch
from dpsd.guard.storage.store import Seen, Store, Watched

SHARED = ("network", "agent", "tls", "query")
"""Kinds of indicators that may be told to others."""
_KEY = 32  # bytes


@dataclass(frozen=True)
class Hashes:
    """How a guard hashes indicators.

    Attributes:
        pepper: its own.
        sharing: what it shares with partners; None: nothing.
    """

    pepper: bytes
    sharing: bytes | None = None

    def __call__(self, kind: str, value: str) -> str:
        """The keyed hash of an indicator: 32 hexadecimal digits (HMAC-SHA-256, cut)."""
        key = self.sharing if self.sharing is not None and kind in SHARED else self.pepper
        return _kept(key, kind, value)


def hashed(key: bytes, kind: str, value: str) -> str:
    """32 hexadecimal digits of HMAC-SHA-256."""
    return hmac.digest(key, f"{kind}\0{value}".encode(), "sha256").hex()[:32]


_kept = lru_cache(maxsize=4096)(hashed)  # an account's are the same in every request


def read_sharing_key(path: Path) -> bytes | None:
    """The sharing key of a file: 64 hexadecimal digits; None: no file.

    Raises:
        UserError: the file is no key.
    """
    if not path.exists():
        return None
    try:
        key = bytes.fromhex(path.read_text().strip())
    except (OSError, ValueError):
        key = b""
    if len(key) != _KEY:
        raise UserError(f"{path}: no sharing key; accepted: 64 hexadecimal digits, as `dpsd guard "
                        "key` makes them")  # fmt: skip
    return key


def make_sharing_key(path: Path, key: bytes) -> bool:
    """Keep a sharing key (mode 0600), where there is none yet. Whether this one was kept."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    return make_once(path, key.hex().encode() + b"\n")


def key_name(key: bytes) -> str:
    """Public name of a key, by which both sides see that they hold the same: 16 digits."""
    return hmac.digest(key, b"dpsd sharing key", "sha256").hex()[:16]


@dataclass(frozen=True)
class Shared:
    """What one suspicious account is told by.

    Attributes:
        source: a hash of the account under the sharing key; tells accounts apart, not who they are.
        suspicion: of the guard that tells it; 1 is its alarm.
        first, last: seconds since 1970.
        images: asked.
        gap: typical seconds between its requests; 0: unknown.
        indicators: kind and hash, or `plain-network` and prefix.
    """

    source: str
    suspicion: float
    first: float
    last: float
    images: int
    gap: float
    indicators: tuple[tuple[str, str], ...]


def shared_of(
    store: Store, key: bytes, at_least: float = 1.0, networks: dict[str, str] | None = None
) -> list[Shared]:
    """What may be told of blocked accounts and of those at the alarm.

    Only indicators that were seen since the guard has had the key fit those of partners.

    Args:
        store: of the guard.
        key: the sharing key.
        at_least: suspicion, of evidence or of a cluster.
        networks: hash -> prefix, of networks that are told in plain; None: none.
    """
    blocked = {a.id for a in store.accounts() if a.state == "blocked"}
    by_account = dict[str, list[Seen]]()
    for s in store.seen():
        by_account.setdefault(s.account, []).append(s)
    watched = {w.account: w for w in store.all_watched()}
    found = []
    for id, seen in by_account.items():
        w = watched.get(id, Watched(id, b""))
        suspicion = max(w.suspicion, w.prior)
        if id.startswith("shared:") or (id not in blocked and suspicion < at_least):
            continue
        sketch = Sketch(w.sketch)
        told = [_plain(s, networks) for s in seen if s.kind in SHARED]
        count = int(min(sketch["hashed"], len(sketch["hashes"])))
        told += [("query", hashed(key, "query", f"{h:016x}"))
                 for h in set(map(int, sketch["hashes"][:count]))]  # fmt: skip
        if told:
            found.append(Shared(
                hashed(key, "account", id), round(max(suspicion, float(id in blocked)), 3),
                min(s.first for s in seen), max(s.last for s in seen),
                max(s.images for s in seen), _gap(sketch), tuple(sorted(set(told))),
            ))  # fmt: skip
    return sorted(found, key=lambda s: s.source)


def plain_networks(key: bytes, hashes: Iterable[str]) -> dict[str, str]:
    """Hash -> IPv4 prefix (/24), by trying them all; hashes of other values are left out."""
    wanted, found = set(hashes), dict[str, str]()
    for a in range(1, 224):
        for b in range(256):
            for c in range(256):
                prefix = f"{a}.{b}.{c}.0/24"
                if (h := hashed(key, "network", prefix)) in wanted:
                    found[h] = prefix
        if len(found) == len(wanted):
            break
    return found


def as_tree(shared: Sequence[Shared], key: bytes) -> dict[str, Any]:
    """For a JSON file."""
    rows = [vars(s) | {"indicators": [list(i) for i in s.indicators]} for s in shared]
    return {"format": "dpsd-indicators-1", "key": key_name(key), "accounts": rows}


def from_tree(tree: Any, key: bytes) -> list[Shared]:
    """What `as_tree` gave, checked.

    Raises:
        UserError: another format, another key, or values that are not accepted.
    """
    try:
        if tree["format"] != "dpsd-indicators-1":
            raise UserError(f"format: {tree['format']!r:.60}; accepted: dpsd-indicators-1, STIX")
        if tree["key"] != key_name(key):
            raise UserError(f"key: made under sharing key {tree['key']!r:.40}; accepted: "
                            f"{key_name(key)}, this guard's")  # fmt: skip
        return [
            Shared(
                str(r["source"]), float(r["suspicion"]), float(r["first"]), float(r["last"]),
                int(r["images"]), float(r["gap"]),
                tuple((str(kind), str(value)) for kind, value in r["indicators"]),
            )
            for r in tree["accounts"]
        ]  # fmt: skip
    except (KeyError, TypeError, ValueError, OverflowError) as e:
        raise UserError(f"indicators: no such file of dpsd ({type(e).__name__}: {e})") from e


def keep(store: Store, shared: Sequence[Shared], key: bytes, prefix: str) -> int:
    """Keep what another operator told; clusters pass its suspicion on to accounts that share it.

    What was kept before from the same source is replaced.

    Args:
        store: of the guard.
        shared: what was told.
        key: the sharing key.
        prefix: of the ids under which it is kept, see `dpsd.guard.clusters.hydra.IMPORTED`.

    Returns:
        Indicators kept.

    Raises:
        UserError: a kind or value that is not accepted; nothing was kept.
    """
    rows = list[tuple[str, str, str, Shared]]()
    for s in shared:
        id = prefix + str(uuid.uuid5(uuid.NAMESPACE_OID, s.source))[:18]
        for kind, value in s.indicators:
            if kind == "plain-network":
                kind, value = "network", hashed(key, "network", value)
            if kind not in SHARED or len(value) != 32 or not set(value) <= set("0123456789abcdef"):
                raise UserError(
                    f"indicator: {kind!r:.40} {value!r:.40}; accepted: {', '.join(SHARED)}, each "
                    "with 32 hexadecimal digits"
                )
            rows.append((id, kind, value, s))
    for id in {row[0] for row in rows}:
        store.forget(id)
    for id, kind, value, s in rows:
        store.saw(id, kind, value, s.last, s.images)
    return len(rows)


def _plain(seen: Seen, networks: dict[str, str] | None) -> tuple[str, str]:
    if networks is not None and seen.kind == "network" and seen.indicator in networks:
        return "plain-network", networks[seen.indicator]
    return seen.kind, seen.indicator


def _gap(sketch: Any) -> float:
    """Geometric mean of the gaps between requests of the open window, seconds."""
    return round(math.exp(float(sketch["gap_mean"])), 3) if int(sketch["gaps"]) else 0.0


def read_file(path: Path) -> Any:
    """The JSON of a file.

    Raises:
        UserError: it cannot be read.
    """
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError, RecursionError) as e:
        raise UserError(f"{path}: cannot be read ({' '.join(str(e).split()):.120})") from e
