"""One-run auditing: many canaries, each in or out by its own fair coin, and how many are guessed.

Steinke, Nasr and Jagielski 2023 (arXiv 2305.08846), theorem 5.2 and appendix D. For replace-one a
canary is a slot that holds one of two records by its coin, so that the size of the data set shows
nothing. The number of guesses is fixed before any score is seen.
"""

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit
from scipy.stats import binom

from dpsd.attacks.audit.bounds import ALPHA, Bound
from dpsd.attacks.statistics import Floats
from dpsd.errors import UserError

METHOD = "one run"
_STEPS = 60
_LARGEST = 1e3


def flip_coins(slots: int, rng: np.random.Generator) -> NDArray[np.bool_]:
    """One fair coin a slot, independent of everything else, bool [slots]."""
    return rng.integers(0, 2, slots).astype(bool)


def correct_guesses(scores: Floats, coins: NDArray[np.bool_], guesses: int) -> int:
    """Guess the coins of the slots with the largest |score|, and count the right ones.

    Args:
        scores: float64 [m]; above 0 speaks for heads (the slot holds the record, or the first of
            its two), below 0 for tails. At a score of 0 the guess is tails.
        coins: bool [m].
        guesses: how many slots are guessed, fixed beforehand, 0 to m; the others abstain.

    Raises:
        UserError: another number of scores than coins, or guesses out of range.
    """
    if scores.shape != coins.shape:
        raise UserError(f"scores: {list(scores.shape)}; accepted: one a coin, {list(coins.shape)}")
    if not 0 <= guesses <= len(coins):
        raise UserError(f"guesses: {guesses}; accepted: 0 to {len(coins)}")
    chosen = np.argsort(-np.abs(scores), kind="stable")[:guesses]
    return int(((scores > 0) == coins)[chosen].sum())


def p_value(slots: int, guesses: int, correct: int, epsilon: float, delta: float) -> float:
    """The largest probability of so many right guesses under any (eps, delta)-DP mechanism.

    beta + 2 m delta alpha, with W ~ Binomial(r, e^eps / (1 + e^eps)), beta = P[W >= v] and
    alpha = max over i from 1 to v of P[v > W >= v - i] / i.

    Args:
        slots: m, canaries with a coin each.
        guesses: r, those that were guessed.
        correct: v, the right ones.
        epsilon: from 0.
        delta: in [0, 1).

    Raises:
        UserError: not 0 <= v <= r <= m.
    """
    if not 0 <= correct <= guesses <= slots:
        given = f"{correct}, {guesses}, {slots}"
        raise UserError(f"correct, guesses, slots: {given}; accepted: in this order, rising")
    keep = float(expit(epsilon))
    beta = float(binom.sf(correct - 1, guesses, keep))
    if delta == 0 or correct == 0:
        return min(1.0, beta)
    i = np.arange(1, correct + 1)
    below = np.cumsum(binom.pmf(correct - i, guesses, keep))
    return min(1.0, beta + 2 * slots * delta * float((below / i).max()))


def lower_bound(
    slots: int, guesses: int, correct: int, delta: float, alpha: float = ALPHA
) -> float:
    """The epsilon below which every (eps, delta)-DP claim is refuted at confidence 1 - alpha.

    Arguments as in `p_value`; bisection, rounded down. At least 0.
    """
    low, high = 0.0, 1.0
    if p_value(slots, guesses, correct, low, delta) >= alpha:
        return 0.0
    while p_value(slots, guesses, correct, high, delta) < alpha and high < _LARGEST:
        low, high = high, 2 * high
    for _ in range(_STEPS):
        middle = (low + high) / 2
        if p_value(slots, guesses, correct, middle, delta) < alpha:
            low = middle
        else:
            high = middle
    return low


def one_run_bound(
    scores: Floats,
    coins: NDArray[np.bool_],
    guesses: int,
    *,
    unit: str,
    delta: float,
    claimed: float | None,
    alpha: float = ALPHA,
    of: str = "",
) -> Bound:
    """The bound of one run beside the ceiling: all guesses right.

    Arguments as in `correct_guesses` and `lower_bound`; `claimed` is the epsilon for one `unit`,
    None where nothing is claimed for it; `of` names the attacked model.
    """
    correct, slots = correct_guesses(scores, coins, guesses), len(coins)
    return Bound(
        method=f"{METHOD}{of and ', '}{of}: {correct} of {guesses} guesses right, {slots} slots",
        quantity="epsilon",
        unit=unit,
        value=lower_bound(slots, guesses, correct, delta, alpha),
        ceiling=lower_bound(slots, guesses, guesses, delta, alpha),
        claimed=claimed,
        delta=delta,
        confidence=1 - alpha,
        trials=slots,
    )
