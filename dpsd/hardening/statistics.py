"""How unlikely a suspect's answers are for a model that has not seen the mark: p-values.

Each function states its null hypothesis. All p-values are closed forms, so that a small one needs
no large number of simulated models.
"""

from collections.abc import Sequence

import numpy as np
from scipy.special import betainccinv, logit
from scipy.stats import binom, norm
from scipy.stats import t as student_t

from dpsd.errors import UserError

BOUND_WRONG = 1e-9
"""Probability that a bound on a rate of null models is too low; it is added to the p-value."""


def mark_p_value(repeated: int, wrong: int, classes: int) -> float:
    """P-value of a suspect that repeats wrong answers which a key drew for an account.

    Null: the suspect does not depend on the key. Given the marked questions on which it names
    another class than the owner's model, it names the wrong class of the mark with probability
    1 / (K - 1) each, independently, since the key draws that class uniformly among K - 1. So the
    number of repetitions has a binomial tail, whatever the suspect is. Without a third class
    nothing is drawn, and the p-value is 1.

    Args:
        repeated: marked questions on which the suspect names the mark's class.
        wrong: marked questions on which it does not name the owner's class; `repeated` are of them.
        classes: K.

    Raises:
        UserError: more repetitions than there are wrong answers.
    """
    _check("repeated", repeated, wrong)
    return 1.0 if classes < 3 else float(binom.sf(repeated - 1, wrong, 1 / (classes - 1)))


def bounded_p_value(hits: int, n: int, null_hits: int, null_n: int) -> float:
    """P-value of a suspect's hits where independent models have a bounded rate of them.

    Null: each of the suspect's `n` questions is a hit with at most the probability q, each for
    itself, and q is that of the null models together. q is taken at its upper confidence bound
    (Clopper and Pearson 1934), and the probability that this bound is too low is added.

    Args:
        hits: of the suspect.
        n: questions to the suspect.
        null_hits: of all null models together.
        null_n: questions to them together.

    Raises:
        UserError: more hits than questions.
    """
    _check("hits", hits, n)
    return min(1.0, float(binom.sf(hits - 1, n, rate_bound(null_hits, null_n))) + BOUND_WRONG)


def rate_bound(hits: int, n: int, wrong: float = BOUND_WRONG) -> float:
    """Upper Clopper-Pearson bound of a rate; it is too low with probability `wrong` at most."""
    _check("hits", hits, n)
    return 1.0 if hits == n else float(betainccinv(hits + 1, n - hits, wrong))


def model_p_value(hits: int, n: int, null_hits: Sequence[int]) -> float:
    """P-value of a suspect's rate of hits beside those of independently trained models.

    Null: the suspect is one more model of the same kind, and rates of such models are normal on the
    logit scale. Then the suspect's distance to their mean has Student's t distribution with one
    degree of freedom less than there are models (prediction interval; with few models its tails
    are heavy, as they must be). The spread is never taken as less than that of counting. Questions
    to one model need not be independent of each other.

    Args:
        hits: of the suspect.
        n: questions, the same ones to each model.
        null_hits: of each independent model, at least 3.

    Raises:
        UserError: fewer than 3 independent models, or more hits than questions.
    """
    if len(null_hits) < 3:
        raise UserError(f"independent models: {len(null_hits)}; accepted: at least 3")
    for count in (hits, *null_hits):
        _check("hits", count, n)
    counts = np.asarray(null_hits, np.float64)
    rates = logit((counts + 0.5) / (n + 1))
    counting = float((1 / (counts + 0.5) + 1 / (n - counts + 0.5)).mean())
    spread = max(float(rates.var(ddof=1)), counting) * (1 + 1 / len(rates))
    distance = float(logit((hits + 0.5) / (n + 1)) - rates.mean()) / spread**0.5
    return float(student_t.sf(distance, len(rates) - 1))


def least_p_value(n: int, models: int) -> float:
    """The smallest p-value that `model_p_value` can give.

    It takes a suspect with only hits, and independent models that all have the same rate, the one
    at which the distance is the most standard deviations of counting.

    Args:
        n: questions, from 1.
        models: independent ones, from 3.
    """
    counts = np.arange(n + 1)
    distance = logit((n + 0.5) / (n + 1)) - logit((counts + 0.5) / (n + 1))
    counting = 1 / (counts + 0.5) + 1 / (n - counts + 0.5)
    largest = float((distance / np.sqrt(counting * (1 + 1 / models))).max())
    return float(student_t.sf(largest, models - 1))


def models_for(n: int, alpha: float) -> int | None:
    """The fewest independent models with which `model_p_value` can be below `alpha`.

    Args:
        n: questions, from 1.
        alpha: above 0, below 1.

    Returns:
        From 3; None where 100 models do not suffice.
    """
    return next((m for m in range(3, 101) if least_p_value(n, m) < alpha), None)


def permutation_p_value(score: float, other_keys: Sequence[float]) -> float:
    """P-value of a score of the owner's key by its rank among keys drawn at random.

    Null: the suspect does not depend on the key, so that the owner's key is one more draw. The
    p-value is then exact, whatever the scores' distribution, and at least 1 / (M + 1).

    Args:
        score: of the owner's key; larger is more like the owner.
        other_keys: of M random keys, one score each; several scores of one key are no draws of
            their own.
    """
    others = np.asarray(other_keys, np.float64)
    return (1 + int((others >= score).sum())) / (len(others) + 1)


def key_p_value(score: float, others: Sequence[float]) -> float:
    """P-value of a score of the owner's key by the spread of scores of keys drawn at random.

    Null: the suspect does not depend on the key, so that the owner's key is one more draw. The
    closed form takes scores as normal with mean 0 (they are sums over many questions, and each
    key's phase is uniform, so that a score and its negative are as likely) and has a Student t tail
    with M degrees of freedom. It is widened where the scores have heavier tails than normal ones.

    Args:
        score: of the owner's key; larger is more like the owner.
        others: M scores of random keys, at least 20. A key may give two that are uncorrelated under
            the null, as its wave and the same a quarter later are.

    Raises:
        UserError: fewer than 20 scores.
    """
    scores = np.asarray(others, np.float64)
    m = len(scores)
    if m < 20:
        raise UserError(f"scores of random keys: {m}; accepted: at least 20")
    spread = float(np.sqrt((scores**2).mean()))
    spread = max(spread, float(np.quantile(np.abs(scores), 0.99) / norm.isf(0.005)))
    return float(student_t.sf(score / spread, m)) if spread > 0 else 1.0


def _check(name: str, part: int, whole: int) -> None:
    if not 0 <= part <= whole:
        raise UserError(f"{name}: {part} of {whole}; accepted: 0 to {whole}")
