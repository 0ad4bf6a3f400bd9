"""RMIA: how often a row's likelihood ratio exceeds that of rows from the population.

Zarifzadeh, Liu and Shokri 2024 (arXiv 2312.03262), equations 2 to 4 and the offline form: one to a
few reference models are enough.
"""

import numpy as np

from dpsd.attacks.statistics import Floats, Mask
from dpsd.errors import UserError

GAMMA = 1.0  # as in the authors' code (ml_privacy_meter)
OFFLINE = 0.3  # "a": p(x) = ((1 + a) p_out(x) + 1 - a) / 2
_TINY = 1e-12


def score(
    target: Floats,
    references: Floats,
    inside: Mask,
    target_population: Floats,
    reference_population: Floats,
) -> Floats:
    """Share of population rows z with p(x | target) / p(x) at least gamma times that of z.

    Args:
        target: p(label | x) of the attacked model, float64 [N].
        references: that of R reference models, float64 [R, N].
        inside: which of them were trained on which row, bool [R, N]; they are left out.
        target_population: p(label | z) of the attacked model for rows that no reference model
            was trained on, float64 [Z].
        reference_population: that of the reference models, float64 [R, Z].

    Returns:
        float64 [N] from 0 to 1; high speaks for a member. The row's own ratio breaks ties.

    Raises:
        UserError: every reference model was trained on some row, or there is no population.
    """
    if not len(target_population):
        raise UserError("population: 0 rows; accepted: at least 1")
    outside = ~inside
    counts = outside.sum(0)
    if counts.min() < 1:
        raise UserError(
            f"reference models: {int((counts < 1).sum())} rows are inside of all "
            f"{len(references)}; accepted: at least one that was not trained on each row"
        )
    out = np.where(outside, references, 0.0).sum(0) / counts
    ratio = target / np.maximum(_TINY, _anyone(out))
    population = target_population / np.maximum(_TINY, _anyone(reference_population.mean(0)))
    beaten = np.searchsorted(np.sort(population), ratio / GAMMA, "right") / len(population)
    # The second term is below 1 / Z, so that different shares keep their order.
    return np.asarray(beaten + ratio / (1 + ratio) / (2 * len(population)))


def _anyone(out: Floats) -> Floats:
    """Estimate of p(x) over all models, from those that were not trained on x."""
    return ((1 + OFFLINE) * out + (1 - OFFLINE)) / 2
