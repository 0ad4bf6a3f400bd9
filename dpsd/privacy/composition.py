"""What the runs of a ledger release together, for one unit of privacy."""

from collections.abc import Iterable
from typing import Any

from dpsd.privacy.events import OpenRelease, Release
from dpsd.privacy.record import RunRecord
from dpsd.privacy.units import TEST_RECORD, covers

Releases = list[tuple[Release, int]]
OPEN: tuple[Release, int] = (OpenRelease(), 1)


def together(runs: Iterable[RunRecord], unit: str, grouping: str | None = None) -> Releases:
    """All that may change when one unit of training data does: whole runs, up to their caps.

    A run whose noise was not made for the unit, or can be predicted, is open. A training by DP-SGD
    counts once, whatever is asked of its teacher. Releases about test rows are about other rows.

    Args:
        runs: of a ledger.
        unit: record, user, client or test record.
        grouping: of the users or clients; None: of the first run for the unit.
    """
    runs = list(runs)
    if grouping is None:
        grouping = next((r.grouping for r in runs if r.unit == unit), "")
    releases: Releases = []
    counted: set[tuple[Any, Release]] = set()
    for run in runs:
        if (run.unit == TEST_RECORD) != (unit == TEST_RECORD):
            continue
        if (training := training_of(run)) is not None:
            if training in counted:
                continue
            counted.add(training)
        same = run.unit != unit or unit not in ("user", "client") or run.grouping == grouping
        fits = covers(run.unit, unit) and same and not run.seeded_noise
        releases.append(whole(run) if fits else OPEN)
    return releases


def whole(run: RunRecord) -> tuple[Release, int]:
    """All answers of a run up to its cap; the training, where answers are its post-processing."""
    return (run.event, 1 if run.event.kind == "dp_sgd" else run.cap)


def training_of(run: RunRecord) -> tuple[Any, Release] | None:
    """Teacher and release of a run on a training by DP-SGD; None for any other run."""
    return (run.teacher, run.event) if run.event.kind == "dp_sgd" else None


def is_open(releases: Iterable[tuple[Release, int]]) -> bool:
    """Whether one of the releases has no finite epsilon."""
    return any(release.kind == "open" for release, _ in releases)
