"""Indicators as STIX 2.1, and back. Ids follow from the content: equal facts make equal files.

A hashed indicator has a pattern on the custom object `x-dpsd-trace`; a network in plain has a usual
one on `ipv4-addr`, which any STIX tool reads.
"""

import re
import uuid
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from dpsd.errors import UserError
from dpsd.guard.indicators.sharing import Shared, key_name

_IDS = uuid.UUID("6b1f0a0e-5f0c-5b43-9d53-6d9a8f2f3c11")  # of this library, for uuid5
_HASHED = re.compile(r"^\[x-dpsd-trace:(\w+)_hmac = '([0-9a-f]{32})'\]$")
_PLAIN = re.compile(r"^\[ipv4-addr:value ISSUBSET '([0-9./]+)'\]$")


def to_stix(shared: Sequence[Shared], key: bytes) -> str:
    """A bundle as JSON text: an identity and one indicator for each trace of each account.

    Args:
        shared: what is told.
        key: the sharing key; only its public name is written.
    """
    from stix2.v21 import Bundle, Identity, Indicator

    name = key_name(key)
    latest = _time(max((s.last for s in shared), default=0.0))
    who = Identity(
        id=_id("identity", name), name=f"a dpsd guard, sharing key {name}",
        identity_class="system", created=_time(0.0), modified=_time(0.0),
    )  # fmt: skip
    objects: list[Any] = [who]
    for s in shared:
        for kind, value in s.indicators:
            pattern = (f"[ipv4-addr:value ISSUBSET '{value}']" if kind == "plain-network"
                       else f"[x-dpsd-trace:{kind}_hmac = '{value}']")  # fmt: skip
            objects.append(Indicator(
                id=_id("indicator", name, s.source, kind, value, repr(s.last)),
                created_by_ref=who.id, created=_time(s.last), modified=_time(s.last),
                valid_from=_time(s.first), name=f"{kind} of an account that copies a model",
                description=f"suspicion {s.suspicion:g} (1 is the alarm), {s.images:,} images",
                indicator_types=["malicious-activity"], pattern=pattern, pattern_type="stix",
                confidence=round(50 * min(s.suspicion, 2)), allow_custom=True,
                x_dpsd_key=name, x_dpsd_source=s.source, x_dpsd_suspicion=s.suspicion,
                x_dpsd_first=s.first, x_dpsd_last=s.last, x_dpsd_images=s.images,
                x_dpsd_gap_seconds=s.gap,
            ))  # fmt: skip
    parts = [str(o.id) for o in objects]
    bundle = Bundle(*objects, id=_id("bundle", repr(latest), *parts), allow_custom=True)
    return str(bundle.serialize(pretty=True, indent=2)) + "\n"


def from_stix(tree: dict[str, Any], key: bytes) -> list[Shared]:
    """What a bundle tells about accounts that copy a model; other objects are passed over.

    Args:
        tree: the bundle's JSON.
        key: the sharing key under which it must be hashed.

    Raises:
        UserError: no valid STIX 2.1, another key, or a pattern that is not understood.
    """
    import stix2

    try:
        bundle = stix2.parse(tree, allow_custom=True)
    except Exception as e:
        text = " ".join(str(e).split())
        raise UserError(f"STIX: not valid ({type(e).__name__}: {text:.120})") from e
    found = dict[str, tuple[Shared, list[tuple[str, str]]]]()
    for o in bundle.get("objects", []):
        if o.get("type") != "indicator" or "x_dpsd_key" not in o:
            continue
        if o["x_dpsd_key"] != key_name(key):
            raise UserError(f"key: made under sharing key {o['x_dpsd_key']!r:.40}; accepted: "
                            f"{key_name(key)}, this guard's")  # fmt: skip
        hashed, plain = _HASHED.match(o["pattern"]), _PLAIN.match(o["pattern"])
        if hashed is None and plain is None:
            raise UserError(f"pattern: {o['pattern']!r:.80}; accepted: those that dpsd writes")
        trace = (hashed[1], hashed[2]) if hashed else ("plain-network", plain[1] if plain else "")
        try:
            one = Shared(
                str(o["x_dpsd_source"]), float(o["x_dpsd_suspicion"]), float(o["x_dpsd_first"]),
                float(o["x_dpsd_last"]), int(o["x_dpsd_images"]), float(o["x_dpsd_gap_seconds"]),
                (),
            )  # fmt: skip
        except (KeyError, TypeError, ValueError) as e:
            raise UserError(f"STIX: {o['id']} has no facts of dpsd ({e})") from e
        found.setdefault(one.source, (one, []))[1].append(trace)
    return [Shared(**vars(one) | {"indicators": tuple(sorted(traces))})
            for one, traces in found.values()]  # fmt: skip


def _id(kind: str, *facts: str) -> str:
    return f"{kind}--{uuid.uuid5(_IDS, kind + chr(0) + chr(0).join(facts))}"


def _time(at: float) -> datetime:
    return datetime.fromtimestamp(at, UTC)
