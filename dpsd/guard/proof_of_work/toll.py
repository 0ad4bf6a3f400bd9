"""What an account works before it is answered: puzzles that follow the information it has taken."""

from dataclasses import dataclass, field

from dpsd.guard.detection.sketch import Sketch
from dpsd.guard.proof_of_work.price import Information, multiplier
from dpsd.guard.proof_of_work.work import Puzzle, Spent, Uses, bits_of, make_puzzle, refused
from dpsd.guard.storage.store import Watched

_NOTHING = Information(0.0, 0.0, 0.0)


@dataclass(frozen=True)
class Demand:
    """A puzzle that has to be solved first.

    Attributes:
        reason: why, in a few words.
        puzzle: for the next try.
    """

    reason: str
    puzzle: Puzzle


@dataclass(frozen=True)
class Toll:
    """The work of one service.

    Attributes:
        secret: key of the puzzles.
        hashes: base work of one image: SHA-256 hashes on average. Python computes a million a
            second on one core, and hardware made for it very many more.
        honest: what honest accounts take; None: suspicion alone sets the price.
        lifetime: seconds until a puzzle expires.
        spent: the solutions that were used.
    """

    secret: bytes
    hashes: float = 4096.0
    honest: Information | None = None
    lifetime: float = 300.0
    spent: Uses = field(default_factory=Spent)

    def demand(
        self, account: str, images: int, watched: Watched | None, solution: str, now: float
    ) -> Demand | None:
        """What the account has to solve; None: it has, and its solution is used up.

        Args:
            account: its id.
            images: in the request.
            watched: what the detectors hold of it.
            solution: of the header `X-Dpsd-Work`; may be empty.
            now: seconds since 1970.
        """
        reason = "this account works for its answers"
        if solution:
            found = refused(self.secret, account, images, solution, now, self.spent)
            if found is None:
                return None
            reason = found
        bits = bits_of(self.hashes * images * self.times(watched))
        return Demand(reason, make_puzzle(self.secret, account, images, bits, now, self.lifetime))

    def times(self, watched: Watched | None) -> float:
        """How many times the base work the account does: 1 to 100."""
        if watched is None:
            return 1.0
        suspicion = max(watched.suspicion, watched.prior)
        if self.honest is None:
            return multiplier(0, 0.0, suspicion, _NOTHING)
        sketch = Sketch(watched.sketch)
        return multiplier(int(sketch["asked"]), float(sketch["entropy_all"]), suspicion,
                          self.honest)  # fmt: skip
