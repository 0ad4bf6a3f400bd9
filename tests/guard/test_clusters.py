"""One hand behind many accounts is found, strangers are not joined, priors rise and fall."""

from dataclasses import replace

import numpy as np
import pytest

from dpsd.errors import UserError
from dpsd.guard.accounts import add_account
from dpsd.guard.clusters.find import find_clusters
from dpsd.guard.clusters.hydra import IMPORTED, inherited, population, update_clusters
from dpsd.guard.clusters.links import (
    alike_pairs,
    components,
    enriched,
    shared_pairs,
    unit_rows,
)
from dpsd.guard.detection.sketch import Sketch
from dpsd.guard.detection.variation import fit_honest, fit_variation
from dpsd.guard.policy import Level, Policy
from dpsd.guard.storage.sqlite_store import SqliteStore
from dpsd.guard.storage.store import Seen, Watched

D = 64
SHIFT = np.linspace(-1, 1, D) / 8
POLICY = Policy((Level("watched", 0.4), Level("slow", 1.0, rate=0.5)), dry_run=False)


def accounts(rng, n, *, shift=0.0, count=100):
    """Deviations of accounts that differ in four directions, and their numbers of questions."""
    asked = rng.integers(count // 2, 2 * count, n)
    between = rng.normal(0, 0.3, (n, 4)) @ np.eye(4, D)
    return between + rng.normal(size=(n, D)) / np.sqrt(asked)[:, None] + shift, asked


def honest(seed=9):
    return fit_honest(*accounts(np.random.default_rng(seed), 2_000))


def test_variation_is_told_apart_and_whitened():
    rng = np.random.default_rng(0)
    deviations, asked = accounts(rng, 4_000)
    found = fit_variation(deviations, asked)
    between = np.linalg.inv(found.axes).T @ np.diag(found.between) @ np.linalg.inv(found.axes)
    assert np.allclose(np.diag(between)[:4], 0.09, rtol=0.2)
    within = np.linalg.inv(found.axes).T @ np.linalg.inv(found.axes)
    assert np.allclose(np.diag(within)[4:], 1, rtol=0.35)
    fresh = found.distance(*accounts(rng, 2_000))
    assert 0.85 < fresh.mean() / D < 1.05  # a floor makes it small, never large
    much = accounts(rng, 500, count=10_000)  # where accounts differ more than by chance
    assert 0.1 < np.median(found.distance(*much)) / D < 1


def test_a_level_is_exceeded_by_few_honest_accounts():
    found, rng = honest(), np.random.default_rng(1)
    new, asked = accounts(rng, 3_000, count=200)
    alarms = sum(found.suspicion(d, int(a))[1] >= 1 for d, a in zip(new, asked, strict=True))
    assert alarms <= 20  # one in a thousand is meant
    assert found.suspicion(2 * SHIFT, 10_000)[1] > 1 > found.suspicion(0 * SHIFT, 10_000)[1]
    with pytest.raises(UserError, match="39; accepted: at least 40"):
        fit_honest(new[:39], asked[:39])


def test_rare_indicators_join_and_common_ones_do_not():
    rng, n = np.random.default_rng(0), 400
    rows = [(0, 1), (7, 1), (3, 2), (4, 2), (5, 2)] + [(i, 9) for i in range(30)]
    pairs = shared_pairs(*np.array(rows).T, n, rng)
    got = {(int(a), int(b)): w for a, b, w in zip(pairs.one, pairs.other, pairs.weight,
                                                  strict=True)}  # fmt: skip
    assert set(got) == {(0, 7), (3, 4), (3, 5), (4, 5)}
    assert got[0, 7] == pytest.approx(np.log(n / 2) / np.log(n)) and got[0, 7] > got[3, 4]
    twice = shared_pairs(np.array([0, 1, 0, 1]), np.array([1, 1, 2, 2]), n, rng)
    assert twice.weight.tolist() == pytest.approx([2 * got[0, 7]])
    assert len(shared_pairs(np.zeros(0, np.int64), np.zeros(0, np.int64), n, rng).one) == 0


def test_like_pairs_equal_a_plain_search():
    rng = np.random.default_rng(2)
    units = unit_rows(np.concatenate([rng.normal(size=(60, D)), np.ones((5, D)) + 0.01]))
    edges, sign = alike_pairs(units, 0.2)
    cosines = units @ units.T / 0.2
    wanted = {(i, j) for i in range(65) for j in range(i + 1, 65) if abs(cosines[i, j]) > 4.5}
    got = set(zip(edges.one.tolist(), edges.other.tolist(), strict=True))
    assert got == wanted and len(got) >= 10
    assert sign.tolist() == [np.sign(cosines[a, b]) for a, b in zip(edges.one, edges.other,
                                                                    strict=True)]  # fmt: skip
    label, score = components(edges, 65)
    assert len(set(label[60:])) == 1 and score[label[60]] >= edges.weight.max()


def test_an_indicator_that_sets_a_group_apart():
    owners = np.concatenate([np.arange(10), np.arange(5, 200)])
    kinds = np.concatenate([np.zeros(10, np.int64), np.ones(195, np.int64)])
    assert enriched(np.arange(10), owners, kinds, 200, 1) < 1e-10
    assert enriched(np.arange(50, 60), owners, kinds, 200, 1) == 1.0
    assert enriched(np.arange(10), owners, np.arange(205), 200, 1) == 1.0


def hydra(rng, *, heads=12, shift=SHIFT, own_networks=False):
    """300 honest accounts in networks of three, then the heads in networks of four."""
    deviations, asked = (
        np.concatenate(p)
        for p in zip(accounts(rng, 300), accounts(rng, heads, shift=shift), strict=True)
    )
    networks = np.concatenate([np.arange(300) // 3, 1_000 + np.arange(heads) // 4])
    if own_networks:
        networks[300:] = 2_000 + np.arange(heads)
    return np.arange(300 + heads), networks, deviations, asked


def test_the_heads_of_a_hydra_are_joined_and_judged_together():
    who, networks, deviations, asked = hydra(np.random.default_rng(3))
    found = find_clusters(who, networks, deviations, asked, alpha=0.1, honest=honest())
    heads = set(range(300, 312))
    joined = {m for c in found if c.linked for m in c.members}
    assert len(joined & heads) >= 9 and len(joined - heads) <= 3
    top = found[0]
    assert top.suspicion > 1 and "not come from where honest" in top.reason
    assert top.score > top.null and top.asked == asked[list(top.members)].sum()
    alone = [honest().suspicion(deviations[h], int(asked[h]))[1] for h in heads]
    assert top.suspicion > np.median(alone)  # the union shows more than the usual head does


def test_honest_accounts_in_common_networks_are_rarely_joined():
    reported = 0
    for seed in range(12):
        who, networks, deviations, asked = hydra(np.random.default_rng(seed), heads=0)
        found = find_clusters(who, networks, deviations, asked, alpha=0.1, seed=seed)
        reported += bool([c for c in found if c.suspicion >= 1])
    assert reported <= 2


def test_accounts_that_only_ask_alike_are_named_apart():
    who, networks, deviations, asked = hydra(np.random.default_rng(4), heads=30, shift=3 * SHIFT,
                                             own_networks=True)  # fmt: skip
    found = find_clusters(who, networks, deviations, asked, alpha=0.1, honest=honest())
    assert found and not any(c.linked for c in found)
    assert len(set(found[0].members) & set(range(300, 330))) >= 15
    networks[300:] = 5_000  # the same, with one payment for all: more than the root of n have it
    found = find_clusters(who, networks, deviations, asked, alpha=0.1, honest=honest())
    assert found[0].linked


def test_a_network_of_hundreds_proves_nothing_about_one():
    seen = [Seen(f"n{i}", "network", "nat", 0, 0, 1) for i in range(100)]
    seen += [Seen(a, "network", "home", 0, 0, 1) for a in ("bad", "new")]
    seen += [Seen("bad", "network", "nat", 0, 0, 1), Seen("new", "agent", "x", 0, 0, 1)]
    shares = inherited(seen, {"bad"})
    assert shares["new"] == 1.0 and shares["n5"] == pytest.approx(0.01)


def sketch(deviation, asked, first=0.0):
    made = Sketch()
    made.fields["whole"][0][:D] = deviation * asked
    made.fields["asked"], made.fields["first"] = asked, first
    return made.to_bytes()


@pytest.fixture
def store(tmp_path):
    opened = SqliteStore(tmp_path / "guard.sqlite")
    yield opened
    opened.close()


def fill(store, rng):
    who, networks, deviations, asked = hydra(rng, shift=2 * SHIFT)
    for i, network, deviation, n in zip(who, networks, deviations, asked, strict=True):
        store.watch(Watched(f"a{i}", sketch(deviation, int(n), 1e6 + 700 * i)))
        store.saw(f"a{i}", "network", f"h{network}", 0.0, int(n))
    return {f"a{i}" for i in range(300, 312)}


def test_members_get_the_suspicion_of_their_cluster_and_lose_it(store):
    heads = fill(store, np.random.default_rng(5))
    found = update_clusters(store, POLICY, 5.0, alpha=0.1)
    assert found and found[0][1].linked
    alarmed = {w.account for w in store.all_watched() if w.prior >= 1}
    assert len(alarmed & heads) >= 9 and len(alarmed - heads) <= 3
    one = store.watched(min(alarmed & heads))
    assert one.level == "slow" and "share indicators and ask alike" in one.reason
    kinds = [e["kind"] for e in store.events(one.account)]
    assert kinds == ["prior", "level"]
    log = store.events("")[-1]
    assert log["found"] == len(found) and log["clusters"][0]["reason"] == found[0][1].reason
    for id in heads:
        store.watch(replace(store.watched(id), sketch=sketch(0 * SHIFT, 100)))
    update_clusters(store, POLICY, 6.0, alpha=0.1)
    assert all(store.watched(id).prior < 1 for id in heads)
    assert store.watched(one.account).level == ""


def test_a_new_account_inherits_from_blocked_and_imported_ones(store):
    bad, _ = add_account(store, bytes(32), "bad", "trial")
    store.change(replace(bad, state="blocked"))
    for id, network in ((bad.id, "h1"), ("new", "h1"), ("other", "h2"), ("far", "h3"),
                        (IMPORTED + "x", "h2")):  # fmt: skip
        store.saw(id, "network", network, 0.0, 1)
    for id in ("new", "other", "far"):
        store.watch(Watched(id, b""))
    assert update_clusters(store, POLICY, 1.0) == []
    priors = {id: store.watched(id).prior for id in ("new", "other", "far")}
    assert priors == {"new": 0.5, "other": 0.5, "far": 0.0}
    assert store.watched("new").level == "watched" and "blocked" in store.watched("new").reason
    assert store.watched(IMPORTED + "x") is None
    store.change(replace(bad, state="active"))
    update_clusters(store, POLICY, 2.0)
    assert store.watched("new").prior == 0 and store.watched("new").level == ""


def test_equal_questions_and_beginnings_are_indicators():
    made = Sketch(sketch(0 * SHIFT, 3, 1_250.0))
    made.fields["hashes"][0][:3], made.fields["hashed"] = [7, 7, 9], 3
    people = population([Watched("a", made.to_bytes())], [Seen("b", "network", "n", 0, 0, 1)])
    assert set(people.names) == {"born:2", "query:0000000000000007", "query:0000000000000009"}
    assert people.asked.tolist() == [3] and people.deviations.shape == (1, 256)
