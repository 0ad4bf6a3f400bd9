"""Where the figures of a report come from. A public report reads nothing below `private/`."""

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from dpsd.config import load_config
from dpsd.errors import UserError
from dpsd.files import read_json, read_lines
from dpsd.report.card import measured_sections

STATEMENT = "statement.json"
_UNREADABLE = (OSError, ValueError, yaml.YAMLError)


@dataclass(frozen=True)
class Source:
    """What a report may read of one run.

    Attributes:
        name: of the run, for readers.
        release: the release folder.
        private: the private folder; None: this report is public, or there is none.
        facts: the statement's.
    """

    name: str
    release: Path
    private: Path | None
    facts: dict[str, Any]

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

    def told(self, error: Exception) -> str:
        """What an error says, in one line and without the folder in which the release lies."""
        return " ".join(str(error).replace(str(self.release), "release").split())

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
        _refuse_private(release)
    # The name of a folder is no part of a release.
    name = f"{facts['run']}"[:8] if public else target.resolve().name
    return Source(name, release, None if public else target / "private", facts)


def _refuse_private(release: Path) -> None:
    """Refuse a release whose card shows figures that were measured on data not declared public.

    The run knows what was declared, so that a release by itself must show no such figures.
    """
    shown = ", ".join(measured_sections(release))
    run = release.resolve().parent / "private" / "run.json"
    if shown and not (run.is_file() and read_json(run).get("data_is_public") is True):
        raise UserError(
            f"--public: {release / 'README.md'} shows private figures ({shown}), and no "
            "run says that the data are public; accepted: a run made with --data-is-public, or a "
            "release without such figures"
        )
