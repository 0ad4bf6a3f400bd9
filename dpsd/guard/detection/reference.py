"""What honest traffic looks like, and how often it looks strange: the guard's calibration.

It is made from honest accounts alone, in three parts that share no account: what questions are
like, how often windows reach each value of a detector, and what evidence whole accounts reach.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import astuple, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dpsd.errors import UserError
from dpsd.files import whole_file
from dpsd.guard.detection.detectors import DETECTORS, WEIGHTS, statistics
from dpsd.guard.detection.evidence import Evidence, Tail, alarm_level, e_value
from dpsd.guard.detection.evidence import calibrate as tail_of
from dpsd.guard.detection.mmd import Kernel, fit_kernel
from dpsd.guard.detection.sketch import BITS, SMALL, WINDOW, Rows, Sketch
from dpsd.guard.detection.variation import LEAST, Honest, Variation, fit_honest
from dpsd.guard.proof_of_work.price import Information, honest_information
from dpsd.imports import brief

Floats = NDArray[np.float32]
_PICTURE = 500  # honest points in pictures
_FIT = 20_000  # questions from which directions and means are taken
_SOME = 16  # windows of an account at most, so that the busiest do not stand for all
_USUAL = 0.99
_POWER = 8  # of the surprise
_FOR_A_MEAN = 4  # windows of an account
_FEW = 30  # questions of a class below which it has no mean of its own
_FACTS = ("discount", "level", "alpha", "accounts")
_SCALARS = ("benign.spread", "benign.entropy", "benign.margin")


@dataclass(frozen=True)
class Benign:
    """What honest questions are like; turns features into rows.

    Attributes:
        kernel: of MMD.
        class_means: mean cosines of honest questions by the class that the model names, float32
            [K, 256]. Honest accounts differ most in which classes they ask about, so a question is
            compared with honest ones of its class.
        planes, offsets: float32 [F, 10] and [10]; signs give buckets.
        hashes: float32 [F, 64]; signs give near-duplicates where nobody else does (SimHash,
            Charikar 2002).
        small: float32 [F, 16].
        centre, axes: float32 [F] and [F, 2], the plane of pictures.
        points: honest questions in that plane, float32 [up to 500, 2].
        spread: median distance of a question to the nearest earlier one of its class.
        entropy, margin: means over honest questions.
        hours: share of honest questions by hour (UTC) times 24, float64 [24].
    """

    kernel: Kernel
    class_means: Floats
    planes: Floats
    offsets: Floats
    hashes: Floats
    small: Floats
    centre: Floats
    axes: Floats
    points: Floats
    spread: float
    entropy: float
    margin: float
    hours: NDArray[np.float64]

    @property
    def width(self) -> int:
        """F, the length of a feature vector."""
        return len(self.centre)

    def rows(
        self, features: Floats, answers: Floats, hashes: NDArray[np.uint64] | None = None
    ) -> Rows:
        """Questions as the detectors see them.

        Args:
            features: float32 [B, F].
            answers: probabilities before any defence, float32 [B, K]; K may be 1: no answers.
            hashes: uint64 [B] of the embedder; None: from the features.

        Raises:
            UserError: features of another length.
        """
        if features.ndim != 2 or features.shape[1] != self.width:
            got = "x".join(map(str, features.shape[1:]))
            raise UserError(f"features: of length {got}; accepted: {self.width}, as calibrated")
        signs = features @ self.planes > self.offsets
        if hashes is None:
            bits = np.packbits((features - self.centre) @ self.hashes > 0, axis=1)
            hashes = bits.view(np.uint64)[:, 0]
        entropy, margin = _spread_of(answers)
        classes = answers.argmax(1).astype(np.int64)
        known = np.minimum(classes, len(self.class_means) - 1)
        return Rows(
            self.kernel.map(features) - self.class_means[known], signs @ (1 << np.arange(BITS)),
            entropy, margin,
            classes, features @ self.small, hashes,
            np.asarray((features - self.centre) @ self.axes, np.float32),
        )  # fmt: skip


@dataclass(frozen=True)
class Reference:
    """A calibrated guard.

    Attributes:
        benign: what honest questions are like.
        tails: of each detector's statistic over honest windows.
        discount: factor of each window's e-value, at most 1. Honest accounts differ from each
            other, and an unusual one would gather evidence for ever; with it, all but a hundredth
            of them lose on average, and the level is for the rest.
        highest: of each detector's statistic over all windows of the honest accounts that set the
            tails, float64 [D].
        level: the evidence at which an account raises an alarm.
        alpha: false-alarm rate of an account over the time that the honest ones were watched.
        accounts: honest accounts whose evidence set the level.
        information: what honest accounts take; sets the price of work.
        honest: how honest accounts' mean questions vary, for clusters; None: too few accounts.
    """

    benign: Benign
    tails: dict[str, Tail]
    discount: float
    highest: NDArray[np.float64]
    level: float
    alpha: float
    accounts: int
    information: Information
    honest: Honest | None = None

    def e_values(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """E-values float64 [..., D] of statistics float64 [..., D]."""
        parts = [tail.p_values(values[..., i]) for i, tail in enumerate(self._ordered())]
        return e_value(np.stack(parts, axis=-1))

    def after(
        self,
        evidence: Evidence,
        values: NDArray[np.float64],
        e_values: NDArray[np.float64] | None = None,
    ) -> Evidence:
        """The evidence with one more window, whose statistics are float64 [D].

        `e_values`: of the statistics, where they are known.
        """
        found = self.e_values(values) if e_values is None else e_values
        e = self.discount * float(found @ WEIGHTS)
        return evidence.after_mean(e * self.surprise(values))

    def surprise(self, values: NDArray[np.float64]) -> float:
        """How far a window passes what honest accounts ever showed, to the eighth power; 1 or more.

        A rank among honest windows says no more about a statistic of three times their highest than
        about one just above it. This does; it is no e-value, and the false-alarm rate rests on
        `level`, which honest accounts set with it.
        """
        over = np.divide(values, self.highest, out=np.ones(len(values)), where=self.highest > 0)
        return float(max(1.0, over.max()) ** _POWER)

    def suspicion(self, evidence: Evidence) -> float:
        """0 without evidence, 1 at the alarm, at most 2."""
        return float(np.clip(np.log(evidence.value) / np.log(self.level), 0, 2))

    def save(self, path: Path) -> None:
        """Write it: numbers alone, readable by the owner (its seed must not be known)."""
        b = self.benign
        arrays: dict[str, Any] = {f"benign.{k}": v for k, v in vars(b).items() if k != "kernel"}
        arrays |= {f"kernel.{k}": v for k, v in vars(b.kernel).items()}
        if self.honest is not None:
            h = self.honest
            arrays |= {
                "honest.axes": h.variation.axes,
                "honest.between": h.variation.between,
                "honest.usual": np.array(h.usual),
                "honest.level": np.array(h.level),
            }
        for name, tail in self.tails.items():
            arrays |= {f"tail.{name}": np.stack([tail.thresholds, tail.rates])}
        arrays["facts"] = np.array(json.dumps(
            {name: getattr(self, name) for name in _FACTS}
            | {"window": WINDOW, "information": astuple(self.information),
               "highest": self.highest.tolist()}
        ))  # fmt: skip
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with whole_file(path, ".npz") as partial:
            partial.touch(0o600)
            with partial.open("wb") as file:
                np.savez_compressed(file, **arrays)

    def _ordered(self) -> list[Tail]:
        return [self.tails[name] for name in DETECTORS]


def read_reference(path: Path) -> Reference:
    """A calibration that `Reference.save` wrote.

    Raises:
        UserError: none there, or not one of this version.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        facts = json.loads(str(arrays.pop("facts")))
        if facts.pop("window") != WINDOW:
            raise ValueError("made for windows of another length")
        information = Information(*facts.pop("information"))
        facts["highest"] = np.array(facts["highest"], np.float64)
        parts: dict[str, dict[str, Any]] = {
            "benign": {}, "kernel": {}, "tail": {}, "honest": {}}  # fmt: skip
        for name, array in arrays.items():
            part, _, field = name.partition(".")
            parts[part][field] = float(array) if f"{part}.{field}" in _SCALARS else array
        tails = {name: Tail(*parts["tail"][name]) for name in DETECTORS}
        benign = Benign(Kernel(**parts["kernel"]), **parts["benign"])
        honest = _honest_from(**parts["honest"]) if parts["honest"] else None
        return Reference(benign, tails, information=information, honest=honest, **facts)
    except Exception as e:
        raise UserError(f"{path}: no readable reference; dpsd guard calibrate makes one "
                        f"({brief(e)})") from e  # fmt: skip


@dataclass(frozen=True)
class Stream:
    """One account's questions, in order.

    Attributes:
        rows: int64 [N], places in a bank of questions.
        at: of each, seconds since 1970, float64 [N].
        wanted: whether it asked for probabilities.
    """

    rows: NDArray[np.int64]
    at: NDArray[np.float64]
    wanted: bool = True


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
    entropy, margin = _spread_of(answers)
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
) -> Reference:
    """Calibrate a guard on honest accounts, which are split into three parts at random.

    Args:
        features: of the questions, float32 [N, F].
        answers: probabilities float32 [N, K].
        hashes: of near-duplicates, uint64 [N]; None: from the features.
        accounts: who asked which of them when.
        alpha: false-alarm rate of an account over the time of its stream.
        seed: part of the guard's secret.

    Raises:
        UserError: too few questions, windows or accounts for the rate; says how many are needed.
    """
    rng = np.random.default_rng(seed)
    order = [accounts[i] for i in rng.permutation(len(accounts))]
    fifth = max(1, len(order) // 5)
    first, second, third = order[:fifth], order[fifth : 2 * fifth], order[2 * fifth :]
    which = np.concatenate([s.rows for s in first])
    at = np.concatenate([s.at for s in first])
    benign = fit_benign(features[which], answers[which], at, seed)
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
    means = [float((plain.e_values(v) @ WEIGHTS).mean()) for v in found if len(v) >= _FOR_A_MEAN]
    discount = min(1.0, 1 / float(np.quantile(means, _USUAL))) if means else 1.0
    plain = replace(plain, discount=discount)
    plain = replace(plain, honest=_honest(bank, third))
    maxima = [highest(plain, all_windows(benign, bank, stream)) for stream in third]
    return replace(plain, level=alarm_level(alpha, maxima))


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


def _honest_from(axes: Any, between: Any, usual: Any, level: Any) -> Honest:
    return Honest(Variation(axes, between), float(usual), float(level))


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


def _spread_of(answers: Floats) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Entropy in nats and margin of probabilities; zeros where there is one class."""
    if answers.shape[1] < 2:
        return np.zeros(len(answers)), np.zeros(len(answers))
    p = np.clip(answers.astype(np.float64), 1e-12, 1)
    top = np.partition(p, -2, axis=1)
    return -(p * np.log(p)).sum(1), top[:, -1] - top[:, -2]


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
