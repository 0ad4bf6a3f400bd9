"""What honest traffic looks like, and how often it looks strange.

`calibrate` makes it from honest accounts alone, `reference_file` keeps it.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dpsd.errors import UserError
from dpsd.guard.detection.detectors import DETECTORS, weights
from dpsd.guard.detection.evidence import Evidence, Tail, e_value
from dpsd.guard.detection.mmd import Kernel
from dpsd.guard.detection.outliers import Outliers
from dpsd.guard.detection.sketch import BITS, Rows
from dpsd.guard.detection.variation import Honest
from dpsd.guard.proof_of_work.price import Information

Floats = NDArray[np.float32]
_POWER = 8  # of the surprise


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
        outliers: tells honest questions from an attacker's; None: nobody showed it any.
        given_hashes: whether near-duplicates are those of an embedder; else of the features.
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
    outliers: Outliers | None = None
    given_hashes: bool = False

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
            hashes: uint64 [B] of the embedder; not read where the calibration had none.

        Raises:
            UserError: features of another length, or no hashes where the calibration had them.
        """
        if features.ndim != 2 or features.shape[1] != self.width:
            got = "x".join(map(str, features.shape[1:]))
            raise UserError(f"features: of length {got}; accepted: {self.width}, as calibrated")
        signs = features @ self.planes > self.offsets
        if hashes is None and self.given_hashes:
            raise UserError("hashes: none; accepted: the embedder's, as calibrated")
        if hashes is None or not self.given_hashes:
            bits = np.packbits((features - self.centre) @ self.hashes > 0, axis=1)
            hashes = bits.view(np.uint64)[:, 0]
        entropy, margin = spread_of(answers)
        classes = answers.argmax(1).astype(np.int64)
        known = np.minimum(classes, len(self.class_means) - 1)
        return Rows(
            self.kernel.map(features) - self.class_means[known], signs @ (1 << np.arange(BITS)),
            entropy, margin,
            classes, features @ self.small, hashes,
            np.asarray((features - self.centre) @ self.axes, np.float32),
            np.zeros(len(features)) if self.outliers is None
            else self.outliers.score(features, answers),
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
        e = self.discount * float(found @ weights(self.benign))
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

    def _ordered(self) -> list[Tail]:
        return [self.tails[name] for name in DETECTORS]


def spread_of(answers: Floats) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Entropy in nats and margin of probabilities; zeros where there is one class."""
    if answers.shape[1] < 2:
        return np.zeros(len(answers)), np.zeros(len(answers))
    p = np.clip(answers.astype(np.float64), 1e-12, 1)
    top = np.partition(p, -2, axis=1)
    return -(p * np.log(p)).sum(1), top[:, -1] - top[:, -2]
