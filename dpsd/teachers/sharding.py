"""Which teacher of an ensemble learns from which record.

Row numbers or user ids decide it, and the content of a record never does. So one replaced record
(unit: record), or all rows of one user (unit: user), reach one teacher alone.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from dpsd.config import NUMBERED
from dpsd.config.sections import DataConfig
from dpsd.data.load import PrivateData
from dpsd.data.users import held_users, read_user_ids
from dpsd.errors import UserError
from dpsd.imports import brief
from dpsd.randomness import keyed_permutation

_BY_CLASS = {
    **dict.fromkeys(NUMBERED, "set data.rows to a list made by `dpsd manifest`"),
    "att_faces": "use an image folder with data.rows, an npz or an import path",
}


@dataclass(frozen=True)
class Shards:
    """Which teacher learns from which rows. Private."""

    unit: Literal["record", "user"]
    n: int
    """Number of teachers, public."""
    key: bytes
    """Random bits, drawn once for this ensemble and independent of the data."""
    teacher_of: Tensor
    """int64 [rows of the training split]: the teacher that sees the row."""

    def rows(self) -> list[Tensor]:
        """The row numbers of each teacher's shard, int64, ascending; some may be empty."""
        order = torch.argsort(self.teacher_of, stable=True)
        sizes = torch.bincount(self.teacher_of, minlength=self.n)
        return list(order.split(sizes.tolist()))


def shard_rows(rows: int, n: int, key: bytes) -> Shards:
    """Shards of row numbers whose sizes differ by one at most (unit: record).

    Raises:
        UserError: n is less than 2.
    """
    _check_number(n)
    teacher_of = torch.empty(rows, dtype=torch.int64)
    teacher_of[keyed_permutation(rows, key)] = torch.arange(rows) % n
    return Shards("record", n, key, teacher_of)


def shard_users(user_of: Tensor, roster: int, n: int, key: bytes) -> Shards:
    """Shards of whole users of a public roster, each with all of its rows (unit: user).

    Args:
        user_of: int64 [rows], the place in the roster of each row's user.
        roster: number of users on the public roster, with those that have no rows.
        n: number of teachers.
        key: random bits that do not depend on the data.

    Raises:
        UserError: n is less than 2.
    """
    _check_number(n)
    teacher_of_user = torch.empty(roster, dtype=torch.int64)
    teacher_of_user[keyed_permutation(roster, key)] = torch.arange(roster) % n
    return Shards("user", n, key, teacher_of_user[user_of])


def shard(config: DataConfig, data: PrivateData, n: int, key: bytes) -> Shards:
    """Shards of the training rows, by user where `data.user_ids` is set and by row elsewhere.

    Raises:
        UserError: the order of the rows depends on the class, or the user ids do not fit them.
    """
    if config.name in _BY_CLASS and config.rows is None:
        raise UserError(
            f"data.rows: null, but {config.name} is numbered in an order that depends on the "
            f"class, so that no record can be protected; {_BY_CLASS[config.name]}"
        )
    if config.user_ids is None:
        return shard_rows(len(data.train), n, key)
    user_of, roster = read_user_ids(config.user_ids, len(data.train) + len(data.holdout))
    held = held_users(roster)
    user_of = user_of[user_of < roster - held]
    return shard_users(user_of, roster - held, n, key)


def save_shards(path: Path, shards: Shards) -> None:
    """Write `shards.npz`. Private."""
    np.savez_compressed(
        path,
        unit=np.array(shards.unit),
        n=np.array(shards.n),
        key=np.frombuffer(shards.key, np.uint8),
        teacher_of=shards.teacher_of.numpy().astype(np.int32),
    )


def load_shards(path: Path) -> Shards:
    """What `save_shards` wrote.

    Raises:
        UserError: the file is missing or damaged.
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            unit: Literal["record", "user"] = "user" if archive["unit"] == "user" else "record"
            teacher_of = torch.from_numpy(archive["teacher_of"].astype(np.int64))
            return Shards(unit, int(archive["n"]), archive["key"].tobytes(), teacher_of)
    except Exception as e:
        raise UserError(f"{path}: not a readable shards file ({brief(e)})") from e


def _check_number(n: int) -> None:
    if n < 2:
        raise UserError(f"teacher.shards: {n}; accepted: a whole number from 2")
