"""Who contributed which row, for the unit user: a public roster of ids and the id of each row."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dpsd.errors import UserError
from dpsd.imports import brief


def held_users(roster: int) -> int:
    """How many users at the end of the roster are held out: a tenth, at least one."""
    return max(1, roster // 10)


def read_user_ids(path: Path, rows: int) -> tuple[Tensor, int]:
    """The users of the rows, from an npz with `user_ids` [rows] and the public `roster` [users].

    Rows are counted in the order of the source, before the holdout is cut off. The roster lists
    each id once, also those of users without rows. Its order is public and fixed.

    Returns:
        The place of each row's user in the roster, int64 [rows]; the number of users on the roster.

    Raises:
        UserError: a file that cannot be read, or ids that do not fit.
    """
    where = f"data.user_ids: {path}"
    try:
        with np.load(path, allow_pickle=False) as archive:
            missing = [name for name in ("user_ids", "roster") if name not in archive.files]
            if missing:
                raise ValueError(f"no array {missing[0]}")
            ids, roster = archive["user_ids"], archive["roster"]
    except Exception as e:
        accepted = "accepted: npz with user_ids [rows] and roster [users]"
        raise UserError(f"{where} cannot be read ({brief(e)}); {accepted}") from e
    if ids.shape != (rows,) or roster.ndim != 1 or len(roster) < 2:
        given = f"user_ids {list(ids.shape)} and roster {list(roster.shape)}"
        raise UserError(f"{where} has {given}; accepted: [{rows}] and [at least 2]")
    order = np.argsort(roster, kind="stable")
    ordered = roster[order]
    if bool((ordered[1:] == ordered[:-1]).any()):
        raise UserError(f"{where}: an id occurs twice on the roster; accepted: each once")
    place = np.searchsorted(ordered, ids).clip(max=len(roster) - 1)
    strangers = int((ordered[place] != ids).sum())
    if strangers:
        raise UserError(f"{where}: {strangers} rows have a user who is not on the roster")
    return torch.from_numpy(order[place].astype(np.int64)), len(roster)


def read_roster(path: Path) -> int:
    """Number of users on the public roster, without the held-out tenth. Reads no other array.

    Raises:
        UserError: a file that cannot be read.
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            n = len(archive["roster"])
    except Exception as e:
        raise UserError(
            f"data.user_ids: {path} cannot be read; accepted: npz with user_ids [rows] and "
            "roster [users]"
        ) from e
    return n - held_users(n)
