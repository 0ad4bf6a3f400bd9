"""Split files: which classes of a data set are private, which public, and which rows are for what.

An attack needs both: the private classes are the teacher's, the public ones are what the attacker
may know. Rows are counted over the source's training rows and then its test rows, before classes
are picked. So a split can be written down without looking at content.
"""

from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, model_validator

_FOLDER = Path(__file__).parent / "split_files"
Ranges = tuple[tuple[int, int], ...]


class SplitFile(BaseModel):
    """One split, from `dpsd/split_files` by name or written in the configuration."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    private: tuple[int, ...]
    """Classes of the source that the teacher knows; they become 0, 1, ... in this order."""
    public: tuple[int, ...]
    """Classes of the source that the attacker knows."""
    train: Ranges
    """Half-open ranges of rows: private ones train the teacher, public ones the attacker."""
    holdout: Ranges
    """Rows that no teacher sees, for judges and as non-members."""
    test: Ranges = ()
    """Rows for the final figures. Empty: there is no test split."""

    @model_validator(mode="after")
    def _apart(self) -> "SplitFile":
        shared = sorted(set(self.private) & set(self.public))
        if shared:
            raise ValueError(
                f"public: class {shared[0]} is private too; success of an attack would be faked; "
                "accepted: classes that no teacher knows"
            )
        for name in ("private", "public"):
            classes, least = getattr(self, name), 2 if name == "private" else 1
            if len(set(classes)) != len(classes) or len(classes) < least or min(classes) < 0:
                raise ValueError(f"{name}: {list(classes)}; accepted: {least} or more classes from "
                                 "0, each once")  # fmt: skip
        ranges = sorted((*self.train, *self.holdout, *self.test))
        empty = [r for r in ranges if not 0 <= r[0] < r[1]]
        if empty or not self.train or not self.holdout:
            raise ValueError(
                f"rows {[list(r) for r in empty]}; accepted: [first, behind the last], at least "
                "one range each for train and holdout"
            )
        for (_, end), (start, _) in pairwise(ranges):
            if start < end:
                raise ValueError(f"row {start} is in two of train, holdout and test")
        return self


@cache
def named_splits() -> dict[str, SplitFile]:
    """The splits that ship with dpsd, by name."""
    return {
        path.stem: SplitFile.model_validate(yaml.safe_load(path.read_text()))
        for path in sorted(_FOLDER.glob("*.yaml"))
    }


def resolve_split(value: Any) -> Any:
    """The split of a name; any other value unchanged, for validation.

    Raises:
        ValueError: an unknown name.
    """
    if not isinstance(value, str):
        return value
    split = named_splits().get(value)
    if split is None:
        raise ValueError(f"unknown split; accepted: {', '.join(named_splits())} or a mapping")
    return split
