"""What serves a run: the released student, its guard's memory, what honest traffic looks like."""

import hashlib
from pathlib import Path

from dpsd.config import load_config
from dpsd.console import Say
from dpsd.errors import UserError
from dpsd.files import read_json
from dpsd.guard.accounts import read_pepper
from dpsd.guard.detection.reference import Reference
from dpsd.guard.detection.reference_file import read_reference
from dpsd.guard.indicators.sharing import read_sharing_key
from dpsd.guard.storage.sqlite_store import SqliteStore
from dpsd.guard.storage.store import Store
from dpsd.guard.storage.stores import open_store, shared_address
from dpsd.imports import brief
from dpsd.randomness import KEY_BYTES
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


def make_service(
    run: Path,
    settings: ServeSettings,
    say: Say,
    place: str | None = None,
    mark_key: Path | None = None,
) -> Service:
    """The service of a run's release.

    Args:
        run: a run or a release folder.
        settings: limits, tiers, policy.
        say: receives lines for the operator.
        place: of the store, as `redis://127.0.0.1:6379`; None: SQLite in the guard's folder.
        mark_key: file with the key of a mark, so that `dpsd claim` can test copies of what is
            served; None: a key of the guard's own.

    Raises:
        UserError: no release, no key, or a store that cannot be used.
    """
    release, guard = release_folder(run), guard_folder(run)
    facts = load_config(release / "config.yaml").facts
    store, pepper = store_of(run, place), read_pepper(guard / "pepper")
    about = {"card": (release / "README.md").read_text(),
             "statement": read_json(release / "statement.json")}  # fmt: skip
    secret = hashlib.blake2b(b"dpsd defences", key=pepper, digest_size=32).digest()
    if mark_key is not None:
        secret = _mark_key(mark_key)
    ask = fastest(release, facts.shape, guard, say)
    reference = _reference(guard, settings, say)
    beside = None
    if reference is not None and isinstance(store, SqliteStore):
        beside = SqliteStore(store.path)
    return Service(facts, ask, about, settings, store, pepper, secret, shared_address(place),
                   reference, beside,
                   sharing=read_sharing_key(guard / "sharing.key"))  # fmt: skip


def _mark_key(path: Path) -> bytes:
    try:
        key = bytes.fromhex(path.read_text().strip())
    except (OSError, ValueError) as e:
        raise UserError(f"--mark-key: {path}: {brief(e)}; accepted: a key of dpsd watermark") from e
    if len(key) < KEY_BYTES:
        raise UserError(f"--mark-key: {path}: {len(key)} bytes; accepted: at least {KEY_BYTES}")
    return key


def _reference(guard: Path, settings: ServeSettings, say: Say) -> Reference | None:
    """The calibration, where there is one."""
    path = settings.detection.reference or guard / "reference.npz"
    if not settings.detection.watch:
        return None
    if settings.detection.reference is None and not path.exists():
        say("detection is off: no reference yet; dpsd guard calibrate makes one")
        return None
    found = read_reference(path)
    dry = " (a dry run: answers do not change)" if settings.policy.dry_run else ""
    say(f"detection is on: false alarms {found.alpha:g} an account over the calibrated time, "
        f"{found.accounts:,} honest accounts{dry}")  # fmt: skip
    return found
