"""Seconds of proof of work: what an honest client and an extractor wait for their answers."""

import statistics
import time
from collections.abc import Sequence

from dpsd.guard.proof_of_work.price import EXTRACTOR, HONEST
from dpsd.guard.proof_of_work.work import bits_of, make_puzzle, solve


def seconds_of_work(
    multipliers: Sequence[float] = (1.0, HONEST, EXTRACTOR), *, images: int = 1,
    hashes: float = 4096.0, trials: int = 20,
) -> dict[float, tuple[float, float]]:  # fmt: skip
    """Seconds on one core until a request is worked for: (mean, highest) by multiplier.

    Args:
        multipliers: of the base work.
        images: in a request.
        hashes: base work of one image.
        trials: puzzles for each.
    """
    found = {}
    for times in multipliers:
        bits, seconds = bits_of(hashes * images * times), []
        for _ in range(trials):
            puzzle = make_puzzle(b"secret", "account", images, bits, time.time())
            start = time.perf_counter()
            solve(puzzle)
            seconds.append(time.perf_counter() - start)
        found[times] = (statistics.fmean(seconds), max(seconds))
    return found
