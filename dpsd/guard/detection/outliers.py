"""Which questions look like an attacker's: a classifier that was shown images of their kind.

Outlier exposure (Hendrycks, Mazeika and Dietterich 2019): it tells honest questions from images
that an attacker without data would make. Its odds are a likelihood ratio, so that an account that
hides each of its own questions among honest ones is seen as what it is, a mixture.
"""

import warnings
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dpsd.errors import UserError

Floats = NDArray[np.float32]

_SHARE = 0.1  # of outliers in the mixture
_MOST = 7.0  # of the log ratio: a classifier is never surer
_HIDDEN, _PASSES = 64, 20
_ENOUGH = 50_000  # questions of each kind that it learns from


@dataclass(frozen=True)
class Outliers:
    """A network with one hidden layer on features and log probabilities.

    Attributes:
        centre, scale: of the inputs, float32 [F + K].
        inner, inner_bias: float32 [F + K, 64] and [64].
        outer, outer_bias: float32 [64] and a number [].
    """

    centre: Floats
    scale: Floats
    inner: Floats
    inner_bias: Floats
    outer: Floats
    outer_bias: Floats

    def score(self, features: Floats, answers: Floats) -> NDArray[np.float64]:
        """Log of 1 + r / 9 of each question, r being the likelihood ratio: 0 is surely honest.

        One question in ten is an outlier with this much more likelihood than none, but for a
        constant.

        Args:
            features: float32 [B, F].
            answers: probabilities before any defence, float32 [B, K]; where one side of the two,
                these or what it was taught, has no answers (K is 1), they say nothing.

        Raises:
            UserError: other classes than it was taught.
        """
        width = features.shape[1]
        known, given = len(self.centre) - width, answers.shape[1]
        if known != given and 1 not in (known, given):
            raise UserError(f"answers: {given} classes; accepted: {known}, as calibrated")
        if known == given:
            x = (_inputs(features, answers) - self.centre) / self.scale
        else:
            x = np.zeros((len(features), len(self.centre)), np.float32)
            x[:, :width] = (features - self.centre[:width]) / self.scale[:width]
        ratio = np.maximum(x @ self.inner + self.inner_bias, 0) @ self.outer + self.outer_bias
        sure = np.exp(np.minimum(ratio.astype(np.float64), _MOST))
        return np.asarray(np.log1p(_SHARE / (1 - _SHARE) * sure))


def fit_outliers(
    features: Floats, answers: Floats, outliers: tuple[Floats, Floats], seed: int
) -> Outliers:
    """Learn to tell honest questions from outliers.

    Args:
        features: of honest questions, float32 [N, F]; nobody may be calibrated on these.
        answers: probabilities of these, float32 [N, K].
        outliers: features and answers of outliers, float32 [M, F] and [M, K].
        seed: part of the guard's secret.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.neural_network import MLPClassifier  # takes a second to import

    rng = np.random.default_rng(seed)
    x, strange = (_inputs(f[some], a[some]) for f, a in ((features, answers), outliers)
                  for some in [rng.permutation(len(f))[:_ENOUGH]])  # fmt: skip
    count = max(len(x), len(strange))  # as many of each, so that odds are a likelihood ratio
    parts = [part[rng.permutation(np.resize(np.arange(len(part)), count))] for part in (x, strange)]
    both, is_outlier = np.concatenate(parts), np.arange(2 * count) >= count
    centre, scale = both.mean(0), both.std(0) + 1e-6
    net = MLPClassifier(
        (_HIDDEN,), alpha=1e-3, batch_size=min(256, count), max_iter=_PASSES,
        n_iter_no_change=_PASSES, random_state=int(rng.integers(2**31)),
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # the passes are what it is to have
        net.fit((both - centre) / scale, is_outlier)
    (inner, outer), (inner_bias, outer_bias) = net.coefs_, net.intercepts_
    arrays = (centre, scale, inner, inner_bias, outer[:, 0], outer_bias[0])
    return Outliers(*(np.asarray(a, np.float32) for a in arrays))


def _inputs(features: Floats, answers: Floats) -> Floats:
    logs = np.log(np.clip(answers, 1e-6, 1))
    return np.concatenate([features, logs], axis=1).astype(np.float32)
