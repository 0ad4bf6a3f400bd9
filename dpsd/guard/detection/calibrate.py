"""Calibrate a guard on honest accounts, in three parts that share no account.

What questions are like, how often windows reach each value of a detector, and what evidence whole
accounts reach.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from dpsd.errors import UserError
from dpsd.guard.detection.detectors import DETECTORS, statistics, weights
from dpsd.guard.detection.evidence import Evidence, alarm_level
from dpsd.guard.detection.evidence import calibrate as tail_of
from dpsd.guard.detection.mmd import Kernel, fit_kernel
from dpsd.guard.detection.outliers import Outliers
from dpsd.guard.detection.reference import Benign, Floats, Reference, spread_of
from dpsd.guard.detection.sketch import BITS, SMALL, WINDOW, Rows, Sketch
from dpsd.guard.detection.variation import LEAST, Honest, fit_honest
from dpsd.guard.proof_of_work.price import honest_information

Teach = Callable[[Floats, Floats], Outliers]
"""From features and answers of honest questions."""

_PICTURE = 500  # honest points in pictures
_FIT = 20_000  # questions from which directions and means are taken
_SOME = 16  # windows of an account at most, so that the busiest do not stand for all
_USUAL = 0.99
_FOR_A_MEAN = 4  # windows of an account
_FEW = 30  # questions of a class below which it has no mean of its own


@dataclass(frozen=True)
class Stream:
    """One account's questions, in order.

    Attributes:
        rows: int64 [N], places in a bank of questions.
        at: of each, seconds since 1970, float64 [N].
        wanted: whether it asked for probabilities.
        owner: whose it is, where an account has several, as one for each month; empty: nobody
            else's.
    """

    rows: NDArray[np.int64]
    at: NDArray[np.float64]
    wanted: bool = True
    owner: str = ""


def fit_benign(features: Floats, answers: Floats, at: NDArray[np.float64], seed: int) -> Benign:
    """What honest questions are like.

    Args:
        features: float32 [N, F], at least 500.
        answers: probabilities float32 [N, K].
        at: when they were asked, seconds since 1970, float64 [N].
        seed: part of the guard's secret.
    """
    rng = np.random.default_rng(seed)
    if len(features) > _FIT:
        some = rng.permutation(len(features))[:_FIT]
        features, answers = features[some], answers[some]
    kernel = fit_kernel(features, seed)
    centre = features.mean(0)
    _, _, axes = np.linalg.svd(features[:2000] - centre, full_matrices=False)
    draw = rng.normal(size=(features.shape[1], BITS + 64 + SMALL)).astype(np.float32)
    planes, hashes, small = np.split(draw, [BITS, BITS + 64], axis=1)
    entropy, margin = spread_of(answers)
    plane = np.zeros((len(centre), 2), np.float32)
    plane[:, : min(2, len(axes))] = axes[:2].T
    hours = np.bincount((at // 3600 % 24).astype(np.int64), minlength=24) + len(at) / 240
    places = features[: 2 * WINDOW * 8] @ small
    return Benign(
        kernel, _class_means(kernel, features, answers), planes,
        np.median(features @ planes, axis=0), hashes, small, centre, plane,
        ((features - centre) @ plane)[:_PICTURE], _usual_distance(places, answers.argmax(1)),
        float(entropy.mean()), float(margin.mean()), 24 * hours / hours.sum(),
    )  # fmt: skip


def calibrate(
    features: Floats,
    answers: Floats,
    hashes: NDArray[np.uint64] | None,
    accounts: Sequence[Stream],
    *,
    alpha: float,
    seed: int,
    outliers: Outliers | Teach | None = None,
) -> Reference:
    """Calibrate a guard on honest accounts, which are split into three parts at random.

    Args:
        features: of the questions, float32 [N, F].
        answers: probabilities float32 [N, K].
        hashes: of near-duplicates, uint64 [N]; None: from the features.
        accounts: who asked which of them when.
        alpha: false-alarm rate of an account over the time of its stream.
        seed: part of the guard's secret.
        outliers: fitted to other honest questions than these, or fits to those of the first part,
            where accounts share no question; None: that detector is silent.

    Raises:
        UserError: too few questions, windows or accounts for the rate; says how many are needed.
    """
    rng = np.random.default_rng(seed)
    first, second, third = _parts(accounts, rng)
    which = np.concatenate([s.rows for s in first])
    at = np.concatenate([s.at for s in first])
    taught = outliers(features[which], answers[which]) if callable(outliers) else outliers
    benign = replace(fit_benign(features[which], answers[which], at, seed), outliers=taught,
                     given_hashes=hashes is not None)  # fmt: skip
    bank = benign.rows(features, answers, hashes)
    found = [values for s in second if (values := all_windows(benign, bank, s)) is not None]
    if not found:
        raise UserError(f"honest accounts: none asked {WINDOW} questions; accepted: more traffic")
    by_window = np.concatenate([rng.permutation(values)[:_SOME] for values in found])
    by_window = rng.permutation(by_window)
    tails = {name: tail_of(by_window[:, i]) for i, name in enumerate(DETECTORS)}
    information = honest_information([bank.entropy[s.rows] for s in second])
    top = np.concatenate(found).max(0)
    plain = Reference(benign, tails, 1.0, top, 2.0, alpha, len(third), information)
    shares = weights(benign)
    means = [float((plain.e_values(v) @ shares).mean()) for v in found if len(v) >= _FOR_A_MEAN]
    discount = min(1.0, 1 / float(np.quantile(means, _USUAL))) if means else 1.0
    plain = replace(plain, discount=discount)
    plain = replace(plain, honest=_honest(bank, third))
    maxima = [highest(plain, all_windows(benign, bank, stream)) for stream in third]
    return replace(plain, level=alarm_level(alpha, maxima))


def _parts(accounts: Sequence[Stream], rng: np.random.Generator) -> Iterator[list[Stream]]:
    """A fifth, another one, and the rest of the owners, at random, with all that is theirs."""
    owned: dict[object, list[Stream]] = {}
    for i, stream in enumerate(accounts):
        owned.setdefault(stream.owner or i, []).append(stream)
    owners = list(owned.values())
    order, fifth = rng.permutation(len(owners)), max(1, len(owners) // 5)
    for part in (order[:fifth], order[fifth : 2 * fifth], order[2 * fifth :]):
        yield [stream for i in part for stream in owners[i]]


def windows(benign: Benign, bank: Rows, stream: Stream) -> Iterator[NDArray[np.float64]]:
    """Statistics float64 [D] of each whole window of a stream."""
    sketch = Sketch()
    for start in range(0, len(stream.rows), WINDOW):
        part = slice(start, start + WINDOW)
        sketch.asked_at(stream.at[part])
        sketch.add(bank.pick(stream.rows[part]), stream.wanted, benign.spread)
        if sketch.room == 0:
            yield statistics(sketch, benign)
            sketch.close_window()


def _honest(bank: Rows, streams: Sequence[Stream]) -> Honest | None:
    """How the mean questions of accounts vary."""
    if len(streams) < 2 * LEAST:
        return None
    means = np.stack([bank.cosines[s.rows].mean(0) for s in streams]).astype(np.float64)
    return fit_honest(means, np.array([len(s.rows) for s in streams]))


def all_windows(benign: Benign, bank: Rows, stream: Stream) -> NDArray[np.float64] | None:
    """Statistics float64 [W, D] of a stream's windows; None without a whole one."""
    found = list(windows(benign, bank, stream))
    return np.stack(found) if found else None


def highest(reference: Reference, values: NDArray[np.float64] | None) -> float:
    """The largest evidence that windows reach, in order; their statistics are float64 [W, D]."""
    best = evidence = Evidence()
    for row in () if values is None else values:
        evidence = reference.after(evidence, row)
        best = max(best, evidence, key=lambda e: e.value)
    return best.value


def _class_means(kernel: Kernel, features: Floats, answers: Floats) -> Floats:
    """Mean cosines by class; those of all questions for classes with few."""
    cosines, classes = kernel.map(features), answers.argmax(1)
    means = np.tile(cosines.mean(0), (answers.shape[1], 1))
    for c in range(len(means)):
        if (classes == c).sum() >= _FEW:
            means[c] = cosines[classes == c].mean(0)
    return np.asarray(means, np.float32)


def _usual_distance(places: Floats, classes: NDArray[np.int64]) -> float:
    """Median distance to the nearest of 64 questions of the same class."""
    found = []
    for start in range(0, len(places) - 64, 64):
        block, of = places[start : start + 64], classes[start : start + 64]
        apart = np.linalg.norm(block[:, None] - block[None], axis=2)
        apart[(of[:, None] != of[None]) | np.eye(len(block), dtype=bool)] = np.inf
        nearest = apart.min(1)
        found.append(nearest[np.isfinite(nearest)])
    return float(np.median(np.concatenate(found))) if found else 0.0
