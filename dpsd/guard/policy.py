"""What the guard does about suspicion: levels that are reached quickly and left slowly.

A decision depends on the level so far and on the suspicion alone, so that the log reproduces it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from dpsd.errors import UserError

NO_LEVEL = ""


@dataclass(frozen=True)
class Level:
    """A graded response.

    Attributes:
        name: for people and the log.
        at: suspicion from which it holds: 0 without evidence, 1 at the alarm, at most 2.
        rate: share of the tier's images a minute that is left, above 0, at most 1.
        defences: texts of `dpsd.defences.parse_defence` beside those of the tier.
        work: whether answers cost proof of work.
        block: whether nothing is answered.
    """

    name: str
    at: float
    rate: float = 1.0
    defences: tuple[str, ...] = ()
    work: bool = False
    block: bool = False


@dataclass(frozen=True)
class Policy:
    """Levels in rising order.

    Attributes:
        levels: of rising `at`.
        leave: a level is left where suspicion falls below this part of its `at`.
        dry_run: levels are decided and logged, and change no answer.
    """

    levels: tuple[Level, ...] = ()
    leave: float = 0.5
    dry_run: bool = True

    def __post_init__(self) -> None:
        """Check it.

        Raises:
            UserError: levels that do not rise, or have one name.
        """
        names, at = [x.name for x in self.levels], [x.at for x in self.levels]
        if at != sorted(at) or len(set(names)) < len(names) or NO_LEVEL in names:
            raise UserError(f"policy.levels: {', '.join(names)}; accepted: names of their own, "
                            "in rising order of `at`")  # fmt: skip

    def decide(self, current: str, suspicion: float) -> str:
        """The name of the level that holds next; empty: none."""
        held = self.position(current)
        reached = max((i for i, x in enumerate(self.levels) if suspicion >= x.at), default=-1)
        while held > reached and suspicion < self.leave * self.levels[held].at:
            held -= 1
        highest = max(held, reached)
        return NO_LEVEL if highest < 0 else self.levels[highest].name

    def level(self, name: str) -> Level | None:
        """The level of this name; None where there is none, or it is configured no more."""
        return next((x for x in self.levels if x.name == name), None)

    def effective(self, name: str) -> Level | None:
        """What an answer goes through: None in a dry run."""
        return None if self.dry_run else self.level(name)

    def position(self, name: str) -> int:
        """Index of a level; -1 for none."""
        return next((i for i, x in enumerate(self.levels) if x.name == name), -1)


def replayed(policy: Policy, suspicions: Sequence[float]) -> list[str]:
    """The levels that a log of suspicions leads to, one for each entry."""
    found, current = [], NO_LEVEL
    for suspicion in suspicions:
        current = policy.decide(current, suspicion)
        found.append(current)
    return found
