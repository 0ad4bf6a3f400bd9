"""Partitions: sizes, shares, seeds, errors, and the file that keeps them."""

import numpy as np
import pytest
import torch

from dpsd.config import parse_config
from dpsd.data.load import PrivateData, Split
from dpsd.errors import UserError
from dpsd.federated.home import federation_folder
from dpsd.federated.partition import (
    by_classes,
    dirichlet,
    draw_partition,
    histograms,
    iid,
    load_partition,
    partition,
    save_partition,
)


def rng(seed=0):
    return np.random.Generator(np.random.Philox(seed))


def data(rows=1000, classes=10):
    labels = torch.arange(rows) % classes
    split = Split(torch.zeros(rows, 1, 2, 2, dtype=torch.uint8), labels)
    return PrivateData(split, split, None)


def config(**federated):
    privacy = {"route": "federated", "unit": "answer", "epsilon": 1}
    return parse_config({"privacy": privacy, "federated": federated})


@pytest.mark.parametrize(
    "federated",
    [
        {"partition": "iid", "clients": 7},
        {"partition": "dirichlet", "alpha": 0.5, "clients": 5},
        {"partition": "classes", "client_classes": 2, "clients": 5},
    ],
)
def test_every_row_has_one_owner_and_the_seed_decides(federated):
    rows = partition(config(**federated), data())
    assert len(rows) == federated["clients"]
    assert torch.equal(torch.cat(rows).sort().values, torch.arange(1000))
    again = partition(config(**federated), data())
    assert all(torch.equal(a, b) for a, b in zip(rows, again, strict=True))
    other = partition(config(**federated, seed=1), data())
    assert not all(torch.equal(a, b) for a, b in zip(rows, other, strict=True))


def test_iid_sizes_differ_by_one_at_most():
    sizes = np.bincount(iid(1003, 7, rng()))
    assert sizes.max() - sizes.min() <= 1


def test_dirichlet_shares_have_the_moments_of_the_distribution():
    labels, clients = np.repeat(np.arange(400), 500), 4
    for alpha in (0.1, 1.0):
        owner = dirichlet(labels, clients, alpha, rng())
        shares = np.stack([np.bincount(owner[labels == c], minlength=clients) / 500
                           for c in range(400)])  # fmt: skip
        # Beta(alpha, 3 alpha): mean 1/4, variance (1/4)(3/4) / (4 alpha + 1).
        assert shares.mean() == pytest.approx(0.25)
        assert shares.var(0).mean() == pytest.approx(0.1875 / (4 * alpha + 1), rel=0.12)


def test_classes_gives_each_client_its_number_and_each_class_a_holder():
    labels = np.arange(1000) % 10
    owner = by_classes(labels, 6, 3, rng())
    held = [np.unique(labels[owner == i]) for i in range(6)]
    assert all(len(h) == 3 for h in held)
    assert set(np.concatenate(held)) == set(range(10))


@pytest.mark.parametrize(
    ("federated", "message"),
    [
        (
            {"alpha": 0.001, "tries": 3, "clients": 12},
            "none of 3 draws gave each of 12 clients .*least_rows",
        ),
        ({"partition": "iid", "clients": 200}, "leaves client .* with 5 of 1000 rows"),
        ({"partition": "classes", "client_classes": 1}, "accepted: 2 to 10"),
        ({"partition": "classes", "client_classes": 11}, "accepted: 2 to 10"),
    ],
)
def test_a_client_that_would_stay_empty_is_one_clear_line(federated, message):
    with pytest.raises(UserError, match=message) as e:
        partition(config(**federated), data())
    assert "\n" not in str(e.value)


def test_rows_of_a_user_stay_together(tmp_path):
    ids, roster = np.arange(1100) % 55, np.arange(55)
    np.savez(tmp_path / "ids.npz", user_ids=ids, roster=roster)
    tree = {
        "data": {"user_ids": str(tmp_path / "ids.npz")},
        "privacy": {"route": "federated", "unit": "answer", "epsilon": 1},
        "federated": {"partition": "users", "clients": 5},
    }
    kept = torch.from_numpy(ids[ids < 50])  # the last tenth of the roster is held out
    split = Split(torch.zeros(len(kept), 1, 2, 2, dtype=torch.uint8), kept % 10)
    held = Split(torch.zeros(100, 1, 2, 2, dtype=torch.uint8), torch.zeros(100).long())
    rows = partition(parse_config(tree), PrivateData(split, held, None))
    owners = [set(kept[r].tolist()) for r in rows]
    assert sum(len(o) for o in owners) == 50 and set().union(*owners) == set(range(50))


def test_another_roster_under_the_same_name_makes_other_clients(tmp_path):
    path = tmp_path / "ids.npz"
    tree = {
        "data": {"user_ids": str(path)},
        "privacy": {"route": "federated", "unit": "answer", "epsilon": 1},
        "federated": {"partition": "users", "clients": 5},
    }
    folders = []
    for users in (55, 44):
        np.savez(path, user_ids=np.arange(1100) % users, roster=np.arange(users))
        folders.append(federation_folder(parse_config(tree)))
    assert folders[0] != folders[1]


def test_the_file_keeps_it_and_the_picture_is_one(tmp_path):
    rows = partition(config(), data())
    save_partition(tmp_path / "p.npz", rows, "these")
    again = load_partition(tmp_path / "p.npz", "these")
    assert all(torch.equal(a, b) for a, b in zip(rows, again, strict=True))
    counts = histograms(rows, data().train.labels, 10)
    assert counts.sum() == 1000 and counts.sum(0).tolist() == [100] * 10
    draw_partition(tmp_path / "p.png", counts)
    assert (tmp_path / "p.png").read_bytes()[:4] == b"\x89PNG"
    with pytest.raises(UserError, match="rows of other data"):
        load_partition(tmp_path / "p.npz", "those")
    (tmp_path / "p.npz").write_bytes(b"torn")
    with pytest.raises(UserError, match="not a readable partition"):
        load_partition(tmp_path / "p.npz", "these")
