"""How much work an answer costs an account: by the information that it has taken.

After Dziedzic et al., *Increasing the Cost of Model Extraction with Calibrated Proof of Work*, ICLR
2022 (arXiv 2201.09243): puzzles get harder as a user takes more information than an honest user is
expected to, so that an honest user pays at most twice the base and an extractor 100 times as much.
They measure information by the privacy cost of an ensemble (PATE). The guard has one model, and
takes the entropy of its answers instead: the sum over all that an account asked.

Entropy does not see somebody who asks as honest users do, and who dilutes hard questions with easy
ones pays less. The detectors' suspicion counts too, for that reason.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dpsd.errors import UserError

HONEST, EXTRACTOR = 2.0, 100.0
"""Multiples of the base work."""
_SPREADS = 4.0  # an honest account exceeds this many standard deviations with probability 3e-5
_START = 10
_FULL = 200  # questions' worth of information beyond that, at which the work is 100 times the base
_DOUBT = 0.75  # suspicion up to which the work is at most twice the base
_ACCOUNTS, _QUESTIONS = 20, 2


@dataclass(frozen=True)
class Information:
    """What honest accounts take, in nats.

    Attributes:
        mean: entropy of an answer.
        within: standard deviation of an answer's entropy within an account.
        between: standard deviation of the accounts' means.
    """

    mean: float
    within: float
    between: float

    def allowance(self, questions: int) -> float:
        """Nats above the mean that an honest account takes at most.

        Four standard deviations, and ten questions' worth at the start, where few hard questions
        say little.
        """
        spread = math.hypot(math.sqrt(questions) * self.within, questions * self.between)
        return _SPREADS * spread + _START * (self.mean + self.within)


def honest_information(entropies: Sequence[NDArray[np.float64]]) -> Information:
    """What honest accounts take, by the entropies of their answers.

    The variance of accounts' means has the part of `within` that is due to few questions taken off.

    Args:
        entropies: of each account, in nats, float64 [N_a]; at least 20 accounts with two answers.

    Raises:
        UserError: too few accounts.
    """
    groups = [np.asarray(group, np.float64) for group in entropies if len(group) >= _QUESTIONS]
    if len(groups) < _ACCOUNTS:
        raise UserError(f"honest accounts: {len(groups)}; accepted: at least {_ACCOUNTS}")
    counts = np.array([len(group) for group in groups])
    means = np.array([group.mean() for group in groups])
    rests = sum(float(((group - group.mean()) ** 2).sum()) for group in groups)
    within = rests / float((counts - 1).sum())
    between = max(0.0, float(means.var(ddof=1)) - within * float((1 / counts).mean()))
    total = float(sum(group.sum() for group in groups))
    return Information(total / float(counts.sum()), math.sqrt(within), math.sqrt(between))


def multiplier(questions: int, entropy: float, suspicion: float, honest: Information) -> float:
    """How many times the base work an account does for its next question: 1 to 100.

    Within what honest accounts take it rises from 1 to 2, beyond that geometrically to 100. It
    reaches 100 where an account has taken as much too much as 200 honest answers hold, or at the
    alarm.

    Args:
        questions: that the account asked so far.
        entropy: the sum of its answers' entropies, in nats.
        suspicion: of the detectors, 1 at the alarm.
        honest: what honest accounts take.
    """
    allowance = honest.allowance(questions)
    more = entropy - questions * honest.mean
    full = allowance + _FULL * max(honest.mean, 1e-3)
    by_information = _rise(float(more), allowance, full)
    return max(by_information, _rise(suspicion, _DOUBT, 1.0))


def _rise(value: float, honest: float, full: float) -> float:
    """1 at zero, 2 at `honest`, 100 from `full` on."""
    if value <= 0:
        return 1.0
    if value <= honest:
        return 1 + (HONEST - 1) * value / honest
    share = min(1.0, (value - honest) / (full - honest))
    return HONEST * math.pow(EXTRACTOR / HONEST, share)
