"""One line of a ledger: what a run may release, and has released, for a unit of privacy."""

from dataclasses import dataclass, fields
from typing import Any

from dpsd.privacy.events import OpenRelease, Release, event_facts, event_from_facts

_LABELS, _ACCURACY = " labels", " accuracy"


def labels_run(run: str) -> str:
    """The name under which a ledger holds a run's label histogram, in a line of its own."""
    return run + _LABELS


def accuracy_run(run: str, number: int) -> str:
    """The name under which a ledger holds an accuracy that was released with noise."""
    return f"{run}{_ACCURACY} {number}"


def is_beside(name: str) -> bool:
    """Whether a name is that of a release beside a run's answers. A run's name holds no blank."""
    return " " in name


@dataclass(frozen=True)
class RunRecord:
    """What one run may release, and has released, as a ledger holds it.

    Attributes:
        run: its id.
        event: one answer; for `dp_sgd` the whole training, which counts once for all runs of one
            teacher; open where the answers bound nothing about the ledger's records.
        cap: answers at most.
        asks_per_image: at most.
        seeded_noise: the noise can be predicted. Nothing is guaranteed then.
        started: when, as text.
        unit: the one for which the run's noise was made.
        teacher: the one whose training by DP-SGD is the event; None for all other events.
        answers: released so far.
        route: of the plan; empty in lines of older versions.
        mechanism: its name in the configuration; empty in lines of older versions.
        allow_open: the user asked to go on where the data set's budget is exceeded by an open
            release.
        asked: UUID of the teacher that answers; empty in lines of older versions.
        grouping: which rows make one user, or one client: a random id. Noise for the users of one
            roster says nothing of those of another. Empty for other units.
    """

    run: str
    event: Release
    cap: int
    asks_per_image: int = 1
    seeded_noise: bool = False
    started: str = ""
    unit: str = "answer"
    teacher: str | None = None
    answers: int = 0
    route: str = ""
    mechanism: str = ""
    allow_open: bool = False
    asked: str = ""
    grouping: str = ""

    def facts(self) -> dict[str, Any]:
        """Plain values, as statements hold them."""
        plain = {f.name: getattr(self, f.name) for f in fields(self)}
        return plain | {"event": event_facts(self.event)}

    def line(self) -> dict[str, Any]:
        """The ledger's line, before any answer."""
        plain = self.facts()
        del plain["answers"]
        return {"kind": "run"} | plain

    def differences(self, stored: "RunRecord") -> list[str]:
        """Where a stored line says something else than this record, in words.

        `started` and `allow_open` are no part of what is released. Older lines lack route,
        mechanism, the teacher that was asked and the grouping.
        """
        told = []
        for f in fields(self):
            mine, theirs = getattr(self, f.name), getattr(stored, f.name)
            older = f.name in ("route", "mechanism", "asked", "grouping") and theirs == ""
            if f.name in ("started", "answers", "allow_open") or older or mine == theirs:
                continue
            told.append(f"{f.name} {theirs} in the ledger, {mine} in the plan")
        return told


def record_from_facts(facts: dict[str, Any]) -> RunRecord:
    """The inverse of `RunRecord.facts`.

    Raises:
        UserError: a kind of release that the accountant does not know.
        TypeError, KeyError: another structure.
    """
    names = {f.name for f in fields(RunRecord)}
    plain = {k: v for k, v in facts.items() if k in names}
    return RunRecord(**plain | {"event": event_from_facts(facts["event"])})


def record_from_line(entry: dict[str, Any], answers: int) -> RunRecord:
    """What a ledger's line says, with the answers charged since.

    Older runs could test their votes against a threshold. They count as open, so never as cheaper
    than they were.
    """
    event = event_facts(OpenRelease()) if "test" in entry else entry["event"]
    return record_from_facts(entry | {"event": event, "answers": answers})
