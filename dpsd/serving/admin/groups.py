"""Clusters as the guard last logged them (`dpsd.guard.clusters.hydra`), for the dashboard."""

from typing import Any

from dpsd.guard.storage.store import Store
from dpsd.serving.admin.board import Group

_READ = 2_000  # of the latest events; older ones are asked for only where these hold none


def logged_groups(store: Store) -> list[Group]:
    """The clusters of the latest `clusters` event; none before the first."""
    found = next((e for e in store.recent_events(_READ) if e["kind"] == "clusters"), None)
    if found is None:
        found = next((e for e in store.events("")[::-1] if e["kind"] == "clusters"), None)
    return [_group(facts) for facts in found["clusters"]] if found else []


def _group(facts: dict[str, Any]) -> Group:
    edges = tuple((a, b, f"tie of {weight:g}") for a, b, weight in facts["edges"])
    return Group(tuple(facts["members"]), edges, facts["suspicion"], facts["reason"], facts["size"])
