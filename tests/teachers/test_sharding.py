"""Who goes to which teacher: by number or user and a key, never by content."""

import numpy as np
import pytest
import torch

from dpsd.config import parse_config
from dpsd.data.load import load_data
from dpsd.data.users import read_user_ids
from dpsd.errors import UserError
from dpsd.teachers.sharding import load_shards, save_shards, shard, shard_rows, shard_users

KEY, OTHER = bytes(range(16)), bytes(16)


def config(**data):
    return parse_config({"data": {"name": "digits"} | data, "privacy": {"epsilon": 1.0}}).data


def users_file(path, ids, roster):
    np.savez(path, user_ids=np.asarray(ids), roster=np.asarray(roster))
    return path


@pytest.mark.parametrize(("rows", "n"), [(100, 7), (12, 4), (5, 9)])
def test_rows_are_dealt_evenly_and_once(rows, n):
    shards = shard_rows(rows, n, KEY).rows()
    sizes = [len(s) for s in shards]
    assert len(shards) == n and max(sizes) - min(sizes) <= 1
    assert torch.cat(shards).sort().values.tolist() == list(range(rows))


def test_the_key_alone_decides():
    first, again, other = (shard_rows(1000, 10, k).teacher_of for k in (KEY, KEY, OTHER))
    assert torch.equal(first, again)
    assert 50 < int((first == other).sum()) < 150  # a tenth by chance


def test_a_row_may_land_anywhere():
    """A uniform permutation: over 400 keys each of 4 teachers gets row 0 about 100 times."""
    found = [int(shard_rows(8, 4, i.to_bytes(16, "big")).teacher_of[0]) for i in range(400)]
    assert all(65 < found.count(t) < 135 for t in range(4))  # 4 standard deviations


def test_all_rows_of_a_user_land_in_one_shard_wherever_the_others_go():
    users = torch.tensor([0, 1, 2, 3, 4] * 6)
    shards = shard_users(users, 5, 3, KEY)
    for user in range(5):
        assert len(shards.teacher_of[users == user].unique()) == 1
    grown = torch.cat([users, torch.full((100,), 2)])  # one user ten times larger
    assert torch.equal(shard_users(grown, 5, 3, KEY).teacher_of[:30], shards.teacher_of)
    gone = users[users != 2]
    assert torch.equal(shard_users(gone, 5, 3, KEY).teacher_of, shards.teacher_of[users != 2])


def test_users_need_not_have_rows_and_a_shard_may_be_empty():
    shards = shard_users(torch.tensor([1, 1]), 4, 4, KEY)
    assert sorted(len(rows) for rows in shards.rows()) == [0, 0, 0, 2]


def test_by_user_the_holdout_is_of_other_users(tmp_path):
    rows = 1438
    ids = np.array([f"u{i % 20:02d}" for i in range(rows)])
    c = config(user_ids=str(users_file(tmp_path / "u.npz", ids, sorted(set(ids)))))
    data = load_data(c)
    assert len(data.holdout) == int(np.isin(ids, ["u18", "u19"]).sum())
    shards = shard(c, data, 9, KEY)
    assert shards.unit == "user" and len(shards.teacher_of) == len(data.train)
    kept = ids[~np.isin(ids, ["u18", "u19"])]
    for user in set(kept):
        assert len(shards.teacher_of[torch.from_numpy(kept == user)].unique()) == 1


@pytest.mark.parametrize(
    ("ids", "roster", "text"),
    [
        ([0, 1, 9], [0, 1, 2], "1 rows have a user who is not on the roster"),
        ([0, 1], [0, 1, 2], r"\[2\] and roster \[3\]; accepted: \[3\]"),
        ([0, 1, 2], [0, 1, 1, 2], "twice on the roster"),
    ],
)
def test_user_ids_that_do_not_fit(tmp_path, ids, roster, text):
    with pytest.raises(UserError, match=text):
        read_user_ids(users_file(tmp_path / "u.npz", ids, roster), 3)


def test_places_follow_the_public_roster(tmp_path):
    path = users_file(tmp_path / "u.npz", ["b", "a", "b"], ["c", "b", "a"])
    found, count = read_user_ids(path, 3)
    assert found.tolist() == [1, 2, 1] and count == 3


def test_a_folder_in_class_order_needs_a_manifest():
    c = config(name="image_folder", root="x", shape=[1, 8, 8], classes=2)
    with pytest.raises(UserError, match=r"data.rows: null, but image_folder .*dpsd manifest"):
        shard(c, load_data(config()), 3, KEY)


def test_shards_survive_their_file(tmp_path):
    shards = shard_rows(50, 4, KEY)
    save_shards(tmp_path / "shards.npz", shards)
    back = load_shards(tmp_path / "shards.npz")
    assert (back.unit, back.n, back.key) == ("record", 4, KEY)
    assert torch.equal(back.teacher_of, shards.teacher_of)
    (tmp_path / "shards.npz").write_bytes(b"nothing")
    with pytest.raises(UserError, match="not a readable shards file"):
        load_shards(tmp_path / "shards.npz")
