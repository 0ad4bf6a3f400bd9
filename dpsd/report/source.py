"""Where the figures of a report come from. A public report reads nothing below `private/`."""

import csv
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from dpsd.config import load_config
from dpsd.errors import UserError
from dpsd.files import read_json, read_lines

STATEMENT = "statement.json"
_MEASURED = ("## Measured figures", "## Inversion attacks", "## Membership inference",
             "## Extraction", "## Audit")  # fmt: skip
_UNREADABLE = (OSError, ValueError, yaml.YAMLError)


@dataclass(frozen=True)
class Source:
    """What a report may read of one run.

    Attributes:
        name: of the run, for readers.
        release: the release folder.
        private: the private folder; None: this report is public, or there is none.
        facts: the statement's.
        known: names of files that were read, for the list of what the report rests on.
    """

    name: str
    release: Path
    private: Path | None
    facts: dict[str, Any]
    known: list[str] = field(default_factory=list)

    def metrics(self) -> list[dict[str, Any]]:
        """Public records of the rounds, oldest first."""
        return read_lines(self.release / "metrics.jsonl")

    def config(self) -> dict[str, Any]:
        """The released configuration, as plain values.

        Raises:
            UserError: it cannot be read.
        """
        path = self.release / "config.yaml"
        try:
            return dict(yaml.safe_load(path.read_text()))
        except (*_UNREADABLE, TypeError) as e:
            raise UserError(f"{path}: cannot be read: {' '.join(str(e).split())}") from e

    def table(self, name: str) -> list[dict[str, str]]:
        """The lines of a released CSV file; none where there is no such file."""
        path = self.release / name
        if not path.is_file():
            return []
        with path.open(newline="") as f:
            return list(csv.DictReader(f))

    def folder(self, *parts: str) -> Path | None:
        """A private folder, if this report may read it and it is there."""
        if self.private is None:
            return None
        path = self.private.joinpath(*parts)
        return path if path.is_dir() else None

    def measured(self, *parts: str) -> dict[str, Any] | None:
        """A private JSON file, if this report may read it and it is there.

        Raises:
            UserError: it is there and cannot be read.
        """
        if self.private is None:
            return None
        path = self.private.joinpath(*parts)
        return read_json(path) if path.is_file() else None

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, in their order."""
        return load_config(self.release / "config.yaml").facts.class_names


def open_source(target: Path, *, public: bool) -> Source:
    """What a report on a run, or on a bare release, may read.

    Args:
        target: a run's folder, or a release folder by itself (for a public report).
        public: read the release alone.

    Raises:
        UserError: no finished run is there; a bare release without `public`; or a public report of
            a release that shows measured figures although the data were not declared public.
    """
    run = (target / "private" / "run.json").is_file()
    release = target / "release" if (target / "release").is_dir() else target
    if not (release / STATEMENT).is_file():
        raise UserError(f"{target}: no finished run or release folder ({STATEMENT} is missing)")
    if not run and not public:
        raise UserError(f"{target}: has no private part; accepted: --public")
    facts = read_json(release / STATEMENT)
    if public:
        declared = run and bool(read_json(target / "private" / "run.json").get("data_is_public"))
        _refuse_private(release, declared=declared or not run)
    name = target.resolve().name if release != target else release.resolve().parent.name
    return Source(name, release, None if public else target / "private", facts)


def _refuse_private(release: Path, *, declared: bool) -> None:
    """Refuse a release whose card shows figures that were measured on data not declared public."""
    card = release / "README.md"
    lines = card.read_text().splitlines() if card.is_file() else []
    shown = [line.removeprefix("## ") for line in lines if line in _MEASURED]
    if shown and not declared:
        raise UserError(
            f"--public: {card} shows private figures ({', '.join(shown)}), and the run was not "
            "made with --data-is-public; accepted: a run that was, or a release without them"
        )
