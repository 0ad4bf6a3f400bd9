"""LiRA: how much likelier a model's confidence is if the model was trained on the row.

Carlini et al. 2022 (arXiv 2112.03570), algorithm 1 (online) and section 4.3 (offline). The variance
is one figure for all rows (section 6.3), which is better with fewer than about 64 shadow models.
"""

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp

from dpsd.attacks.statistics import Floats, Mask
from dpsd.errors import UserError

_LEAST_STD = 1e-3


def confidence(logits: Floats, labels: NDArray[np.int64]) -> Floats:
    """Log of p(label) / (1 - p(label)), the statistic of LiRA.

    Args:
        logits: or log-probabilities, float [..., N, K].
        labels: int64 [N].

    Returns:
        float64 [..., N], approximately normal over models.
    """
    z = np.asarray(logits, dtype=np.float64)
    chosen = np.broadcast_to(labels, z.shape[:-1])[..., None]
    own = np.take_along_axis(z, chosen, -1)[..., 0]
    others = np.where(np.arange(z.shape[-1]) == chosen, -np.inf, z)
    return np.asarray(own - logsumexp(others, axis=-1))


def online(target: Floats, shadows: Floats, inside: Mask) -> Floats:
    """Log-likelihood ratio of the target's confidence, float64 [N]; high speaks for a member.

    Args:
        target: the attacked model's confidence in the rows' labels, float64 [N].
        shadows: that of S shadow models, float64 [S, N].
        inside: which of them were trained on which row, bool [S, N].

    Raises:
        UserError: no shadow model, or every one, was trained on some row.
    """
    ins, outs = _mean(shadows, inside), _mean(shadows, ~inside)
    s_in, s_out = (
        _standard_deviation(shadows, inside, ins),
        _standard_deviation(shadows, ~inside, outs),
    )
    log_in = -((target - ins) ** 2) / (2 * s_in**2) - np.log(s_in)
    log_out = -((target - outs) ** 2) / (2 * s_out**2) - np.log(s_out)
    return np.asarray(log_in - log_out)


def offline(target: Floats, shadows: Floats, inside: Mask) -> Floats:
    """By how many standard deviations the target is surer than models not trained on the row, [N].

    Arguments and errors as in `online`. Only shadow models that were not trained on a row count.
    """
    outs = _mean(shadows, ~inside)
    return np.asarray((target - outs) / _standard_deviation(shadows, ~inside, outs))


def _mean(values: Floats, kept: Mask) -> Floats:
    counts = kept.sum(0)
    if counts.min() < 1:
        raise UserError(
            f"shadow models: {int((counts < 1).sum())} rows are inside (or outside) of none of the "
            f"{len(values)}; accepted: at least one of each for every row"
        )
    return np.asarray(np.where(kept, values, 0.0).sum(0) / counts)


def _standard_deviation(values: Floats, kept: Mask, means: Floats) -> float:
    """The common standard deviation within rows, unbiased for few models a row."""
    squares = float(np.where(kept, (values - means) ** 2, 0.0).sum())
    free = int(kept.sum()) - values.shape[1]
    return max(_LEAST_STD, float(np.sqrt(squares / max(1, free))))
