"""What serves a run: the released student, its guard's memory, what honest traffic looks like."""

import hashlib
from pathlib import Path

from dpsd.config import load_config
from dpsd.console import Say
from dpsd.files import read_json
from dpsd.guard.accounts import read_pepper
from dpsd.guard.reference import Reference, read_reference
from dpsd.guard.sqlite_store import SqliteStore
from dpsd.guard.store import Store
from dpsd.guard.stores import open_store, shared_address
from dpsd.runs.release import release_folder
from dpsd.serving.app import Service
from dpsd.serving.predictor import fastest
from dpsd.serving.settings import ServeSettings


def guard_folder(run: Path) -> Path:
    """Where the guard of a run keeps its store and pepper: `guard` beside the release."""
    return release_folder(run).absolute().parent / "guard"


def store_of(run: Path, place: str | None = None) -> Store:
    """The store of a run's guard: that of an address, or `guard.sqlite` in the guard's folder.

    Raises:
        UserError: a store that cannot be used.
    """
    return open_store(place, guard_folder(run) / "guard.sqlite")


def make_service(run: Path, settings: ServeSettings, say: Say, place: str | None = None) -> Service:
    """The service of a run's release.

    Args:
        run: a run or a release folder.
        settings: limits, tiers, policy.
        say: receives lines for the operator.
        place: of the store, as `redis://127.0.0.1:6379`; None: SQLite in the guard's folder.

    Raises:
        UserError: no release, or a store that cannot be used.
    """
    release, guard = release_folder(run), guard_folder(run)
    facts = load_config(release / "config.yaml").facts
    store, pepper = store_of(run, place), read_pepper(guard / "pepper")
    about = {"card": (release / "README.md").read_text(),
             "statement": read_json(release / "statement.json")}  # fmt: skip
    secret = hashlib.blake2b(b"dpsd defences", key=pepper, digest_size=32).digest()
    ask = fastest(release, facts.shape, guard, say)
    reference = _reference(guard, settings, say)
    beside = None
    if reference is not None and isinstance(store, SqliteStore):
        beside = SqliteStore(store.path, durable=False)
    return Service(facts, ask, about, settings, store, pepper, secret, shared_address(place),
                   reference, beside)  # fmt: skip


def _reference(guard: Path, settings: ServeSettings, say: Say) -> Reference | None:
    """The calibration, where there is one."""
    path = settings.detection.reference or guard / "reference.npz"
    if not settings.detection.on:
        return None
    if settings.detection.reference is None and not path.exists():
        say("detection is off: no reference yet; dpsd guard calibrate makes one")
        return None
    found = read_reference(path)
    dry = " (a dry run: answers do not change)" if settings.policy.dry_run else ""
    say(f"detection is on: false alarms {found.alpha:g} an account over the calibrated time, "
        f"{found.accounts:,} honest accounts{dry}")  # fmt: skip
    return found
