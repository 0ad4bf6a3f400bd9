"""Clusters come from the log, the latest ones."""

from dpsd.guard.clusters.find import Cluster
from dpsd.guard.clusters.hydra import _facts
from dpsd.guard.storage.sqlite_store import SqliteStore
from dpsd.serving.admin.groups import logged_groups


def test_the_latest_clusters_of_the_log(tmp_path):
    store = SqliteStore(tmp_path / "guard.sqlite")
    assert logged_groups(store) == []
    ids = tuple(f"a{i}" for i in range(30))
    places = tuple(range(30))
    cluster = Cluster(places, ((0, 1, 2.5), (0, 29, 1.0)), 9.0, 3.0, True, 500, 80.0, 1.25)
    store.note("", "clusters", 1.0, found=0, clusters=[])
    store.note("", "clusters", 2.0, found=1, clusters=[_facts(ids, cluster)])
    store.note("a1", "window", 3.0)
    group = logged_groups(store)[0]
    assert group.members == ids[:20] and group.size == 30  # the log lists no more
    assert group.edges == (("a0", "a1", "tie of 2.5"),) and group.suspicion == 1.25
    assert group.reason.startswith("30 accounts share indicators and ask alike; together")
    store.note("", "clusters", 4.0, found=0, clusters=[])
    assert logged_groups(store) == []
    store.close()
