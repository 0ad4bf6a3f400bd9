"""Honest and other questions for the guard's tests: three classes in eight dimensions."""

import numpy as np

from dpsd.guard.detection.calibrate import calibrate
from dpsd.guard.detection.traffic import Bank, honest_accounts

CENTRES = np.random.default_rng(5).normal(size=(3, 8)) * 3


def questions(rng, n, *, shift=0.0, spread=1.0, classes=None):
    """Features float32 [n, 8] and answers float32 [n, 3]."""
    of = rng.integers(0, 3, n) if classes is None else np.asarray(classes)
    features = (CENTRES[of] + shift + spread * rng.normal(size=(n, 8))).astype(np.float32)
    logits = -((features[:, None] - CENTRES[None]) ** 2).sum(2) / 4
    answers = np.exp(logits - logits.max(1, keepdims=True))
    return features, (answers / answers.sum(1, keepdims=True)).astype(np.float32)


def honest_reference(alpha=0.02, accounts=1_800, seed=0):
    """A calibration on simulated honest accounts, its bank's features and answers."""
    rng = np.random.default_rng(seed)
    features, answers = questions(rng, 2_000)
    bank = Bank(answers.argmax(1))
    streams = [s for _, s in honest_accounts(bank, accounts, median=100, seed=seed)]
    return calibrate(features, answers, None, streams, alpha=alpha, seed=seed)
