"""A guard with its memory in a folder, for the middleware."""

from pathlib import Path

from dpsd.guard.accounts import read_pepper
from dpsd.guard.detection.reference_file import read_reference
from dpsd.guard.guard import Guard
from dpsd.guard.limits import Limits, Tier
from dpsd.guard.policy import Policy
from dpsd.guard.proof_of_work.toll import Toll
from dpsd.guard.storage.sqlite_store import SqliteStore


def open_guard(
    folder: Path,
    tiers: dict[str, Tier],
    *,
    policy: Policy | None = None,
    reference: Path | None = None,
    network_per_minute: int = 6_000,
    all_per_minute: int = 60_000,
    hashes: float = 4096.0,
) -> Guard:
    """A guard that keeps its memory in a folder.

    Args:
        folder: for `guard.sqlite` and the pepper; made if need be.
        tiers: limits by name.
        policy: what suspicion leads to; None: nothing.
        reference: what honest traffic looks like (`reference.npz`); None: nothing is detected.
        network_per_minute: questions a minute of one network prefix.
        all_per_minute: questions a minute of all together.
        hashes: base work of one question, where a level asks for work.

    Raises:
        UserError: a folder or a reference that cannot be used.
    """
    store, pepper = SqliteStore(folder / "guard.sqlite"), read_pepper(folder / "pepper")
    limits = Limits(tiers, network_per_minute, all_per_minute, store)
    known = None if reference is None else read_reference(reference)
    return Guard(store, limits, policy or Policy(), known, pepper, Toll(pepper, hashes))
