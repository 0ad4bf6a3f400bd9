"""Operators with one key find each other's accounts; without it hashes say nothing."""

import json
from dataclasses import replace

import pytest
from stix2patterns.validator import validate

from dpsd.errors import UserError
from dpsd.guard.accounts import add_account
from dpsd.guard.clusters.hydra import IMPORTED, update_clusters
from dpsd.guard.detection.sketch import Sketch
from dpsd.guard.indicators.sharing import (
    Hashes,
    as_tree,
    from_tree,
    hashed,
    keep,
    make_sharing_key,
    plain_networks,
    read_sharing_key,
    shared_of,
)
from dpsd.guard.indicators.stix import from_stix, to_stix
from dpsd.guard.policy import Level, Policy
from dpsd.guard.storage.sqlite_store import SqliteStore
from dpsd.guard.storage.store import Watched

KEY, OTHER = bytes(range(32)), bytes(32)


def operator(folder, pepper, sharing=KEY):
    """A store, and how its guard hashes."""
    return SqliteStore(folder / "guard.sqlite"), Hashes(pepper, sharing)


@pytest.fixture
def ours(tmp_path):
    """A store with a blocked, an alarmed and an honest account."""
    store, hashes = operator(tmp_path / "ours", b"a" * 32)
    blocked, _ = add_account(store, bytes(32), "mallory", "trial", reference="card 1")
    store.change(replace(blocked, state="blocked"))
    sketch = Sketch()
    sketch.fields["hashes"][0][:2], sketch.fields["hashed"] = [5, 6], 2
    sketch.fields["gaps"], sketch.fields["gap_mean"] = 3, 0.0
    store.watch(Watched("alarmed", sketch.to_bytes(), suspicion=1.5))
    store.watch(Watched("honest", b"", suspicion=0.2))
    for id, network in ((blocked.id, "198.51.100.0/24"), ("alarmed", "203.0.113.0/24"),
                        ("honest", "192.0.2.0/24")):  # fmt: skip
        store.saw(id, "network", hashes("network", network), 1e9 + 0.5, 40)
        store.saw(id, "reference", hashes("reference", "card 1"), 1e9 + 1, 40)
    yield store
    store.close()


def test_kinds_that_may_be_shared_are_hashed_under_the_shared_key():
    mine, theirs, alone = Hashes(b"a" * 32, KEY), Hashes(b"b" * 32, KEY), Hashes(b"a" * 32)
    assert mine("network", "n") == theirs("network", "n") != alone("network", "n")
    assert mine("reference", "n") == alone("reference", "n") != theirs("reference", "n")
    assert mine("network", "n") != mine("agent", "n") and len(mine("tls", "")) == 32


def test_what_is_told(ours):
    told = shared_of(ours, KEY)
    assert sorted(s.suspicion for s in told) == [1.0, 1.5]
    alarmed = next(s for s in told if s.suspicion == 1.5)
    assert {kind for kind, _ in alarmed.indicators} == {"network", "query"}
    assert (alarmed.first, alarmed.last, alarmed.images, alarmed.gap) == (1e9 + 0.5, 1e9 + 1, 40, 1)
    text = json.dumps(as_tree(told, KEY)) + to_stix(told, KEY)
    for secret in ("mallory", "card 1", "203.0.113", "alarmed", KEY.hex(), '"reference"',
                   Hashes(b"a" * 32, KEY)("reference", "card 1")):  # fmt: skip
        assert secret not in text
    assert shared_of(ours, KEY, at_least=0.1)[0] and len(shared_of(ours, KEY, at_least=0.1)) == 3


def test_stix_is_valid_the_same_each_time_and_comes_back(ours):
    told = shared_of(ours, KEY, networks={hashed(KEY, "network", "203.0.113.0/24"):
                                          "203.0.113.0/24"})  # fmt: skip
    text = to_stix(told, KEY)
    assert text == to_stix(list(told), KEY)
    tree = json.loads(text)
    patterns = [o["pattern"] for o in tree["objects"] if o["type"] == "indicator"]
    assert len(patterns) == sum(len(s.indicators) for s in told)
    assert "[ipv4-addr:value ISSUBSET '203.0.113.0/24']" in patterns
    assert all(validate(p, stix_version="2.1") for p in patterns)
    back = sorted(from_stix(tree, KEY), key=lambda s: s.source)
    assert back == told == from_tree(json.loads(json.dumps(as_tree(told, KEY))), KEY)


def test_a_partner_watches_accounts_that_come_with_the_same_traces(ours, tmp_path):
    store, hashes = operator(tmp_path / "theirs", b"b" * 32)
    for id, network in (("suspect", "203.0.113.0/24"), ("other", "192.0.2.0/24")):
        store.saw(id, "network", hashes("network", network), 2e9, 1)
        store.watch(Watched(id, b""))
    policy = Policy((Level("watched", 0.4),))
    told = from_stix(json.loads(to_stix(shared_of(ours, KEY), KEY)), KEY)
    assert keep(store, told, KEY, IMPORTED) == keep(store, told, KEY, IMPORTED) == 4
    update_clusters(store, policy, 2e9)
    assert store.watched("suspect").prior == 0.5 and store.watched("suspect").level == "watched"
    assert store.watched("other").prior == 0
    assert shared_of(store, KEY, at_least=0.9) == []  # what was imported is not told again
    store.close()


def test_networks_in_plain_fit_those_that_are_hashed(ours, tmp_path):
    told = shared_of(ours, KEY, networks={hashed(KEY, "network", "203.0.113.0/24"):
                                          "203.0.113.0/24"})  # fmt: skip
    store, hashes = operator(tmp_path / "theirs", b"b" * 32)
    keep(store, told, KEY, IMPORTED)
    kept = {s.indicator for s in store.seen() if s.kind == "network"}
    assert hashes("network", "203.0.113.0/24") in kept
    store.close()


def test_who_holds_the_key_reads_networks_off_their_hashes(monkeypatch):
    """What docs say leaks. Two of the 223 first bytes are tried here."""
    monkeypatch.setattr("builtins.range", _few(range))
    found = plain_networks(KEY, [hashed(KEY, "network", "1.2.3.0/24"), "0" * 32])
    assert list(found.values()) == ["1.2.3.0/24"]


def _few(real):
    return lambda *args: real(1, 3) if args == (1, 224) else real(*args)


def test_bad_files_are_refused_and_nothing_is_kept(ours, tmp_path):
    store, _ = operator(tmp_path / "theirs", b"b" * 32)
    tree = as_tree(shared_of(ours, KEY), KEY)
    with pytest.raises(UserError, match="made under sharing key"):
        from_tree(tree, OTHER)
    with pytest.raises(UserError, match="made under sharing key"):
        from_stix(json.loads(to_stix(shared_of(ours, KEY), KEY)), OTHER)
    for broken in ([], {"format": "x"}, {**tree, "accounts": [{}]}, {**tree, "accounts": 3}):
        with pytest.raises(UserError):
            from_tree(broken, KEY)
    for broken in ({}, {"type": "bundle", "id": "bundle--1", "objects": [1]}):
        with pytest.raises(UserError, match="STIX"):
            from_stix(broken, KEY)
    told = [replace(s, indicators=(*s.indicators, kind)) for s in shared_of(ours, KEY)
            for kind in (("reference", "0" * 32), ("network", "10.0.0.0/8"))]  # fmt: skip
    for s in told:
        with pytest.raises(UserError, match="indicator: "):
            keep(store, [s], KEY, IMPORTED)
    assert store.seen() == []
    store.close()


def test_a_sharing_key_is_made_once_and_checked(tmp_path):
    path = tmp_path / "guard" / "sharing.key"
    assert read_sharing_key(path) is None
    assert make_sharing_key(path, KEY) and not make_sharing_key(path, OTHER)
    assert read_sharing_key(path) == KEY and path.stat().st_mode & 0o777 == 0o600
    path.write_text("abc")
    with pytest.raises(UserError, match="64 hexadecimal digits"):
        read_sharing_key(path)
