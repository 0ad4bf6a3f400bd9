"""What a window of an account's questions says: one number for each detector, higher is stranger.

None is an alarm by itself. `dpsd.guard.detection.reference` knows how often honest windows reach
each value.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.stats import shapiro

from dpsd.guard.detection.sketch import WINDOW, Sketch

if TYPE_CHECKING:
    from dpsd.guard.detection.reference import Benign

_ENOUGH = 8  # distances or gaps below which nothing is said


@dataclass(frozen=True)
class Detector:
    """One way of looking at a window.

    Attributes:
        weight: its part of the mean of e-values; all sum to 1.
        statistic: of a sketch at the end of its window, beside what honest questions are like.
        says: the reason that a person reads.
    """

    weight: float
    statistic: Callable[[Sketch, "Benign"], float]
    says: str


def _mmd(sketch: Sketch, benign: "Benign") -> float:
    """Maximum mean discrepancy (Gretton et al. 2012) to honest questions of the same classes."""
    return float((sketch["cosines"].astype(np.float64) ** 2).sum() / sketch["count"])


def _prada(sketch: Sketch, benign: "Benign") -> float:
    """Distances between questions of a class that are not normal (Juuti et al. 2019, PRADA).

    Shapiro and Wilk's W on the window, with a bounded set of earlier questions.
    """
    found = sketch["nearest"][: int(sketch["found"])]
    if len(found) < _ENOUGH or np.ptp(found) == 0:
        return 0.0
    return 1 - float(shapiro(found).statistic)


def _coverage(sketch: Sketch, benign: "Benign") -> float:
    """Buckets of features that a window meets (after B4B, Dubinski et al. 2023)."""
    return float(np.unpackbits(sketch["buckets"]).sum())


def _outliers(sketch: Sketch, benign: "Benign") -> float:
    """Likelihood ratio of honest questions with a tenth of an attacker's, geometric mean."""
    return float(np.exp(sketch["outlier"] / WINDOW))


def _entropy(sketch: Sketch, benign: "Benign") -> float:
    return abs(float(sketch["entropy"]) / WINDOW - benign.entropy)


def _margin(sketch: Sketch, benign: "Benign") -> float:
    return abs(float(sketch["margin"]) / WINDOW - benign.margin)


def _duplicates(sketch: Sketch, benign: "Benign") -> float:
    return float(sketch["repeats"])


def _regularity(sketch: Sketch, benign: "Benign") -> float:
    """1 for a clock, near 0 for people; 0 where a window has few requests."""
    gaps = int(sketch["gaps"])
    if gaps < _ENOUGH:
        return 0.0
    return 1 / (1 + float(np.sqrt(sketch["gap_m2"] / gaps)))


def _hour(sketch: Sketch, benign: "Benign") -> float:
    """How rare honest questions are at this hour (UTC)."""
    return -float(np.log(benign.hours[int(sketch["last"] // 3600) % 24]))


def _asks(sketch: Sketch, benign: "Benign") -> float:
    return float(sketch["wanted"])


DETECTORS: dict[str, Detector] = {
    "mmd": Detector(0.25, _mmd, "its questions do not come from where honest ones come from"),
    "outliers": Detector(0.20, _outliers, "some of its questions look made, like an attacker's"),
    "prada": Detector(0.05, _prada, "the distances between its questions look made"),
    "coverage": Detector(0.10, _coverage, "its questions spread over more of the model than usual"),
    "entropy": Detector(0.10, _entropy, "the model is unusually sure or unsure of its questions"),
    "margin": Detector(0.10, _margin, "its questions lie unusually close to or far from borders"),
    "duplicates": Detector(0.11, _duplicates, "it asks the same question in slight variations"),
    "regularity": Detector(0.05, _regularity, "it asks as regularly as a clock"),
    "hour": Detector(0.02, _hour, "it asks at hours when honest accounts are quiet"),
    "asks": Detector(0.02, _asks, "it asks for probabilities more than others do"),
}
"""By name, in the order of statistics and e-values."""
WEIGHTS = np.array([d.weight for d in DETECTORS.values()])


def weights(benign: "Benign") -> np.ndarray:
    """The detectors' weights, float64 [D]; where no outliers were shown, `mmd` has their part."""
    if benign.outliers is not None:
        return WEIGHTS
    found, names = WEIGHTS.copy(), list(DETECTORS)
    found[names.index("mmd")] += found[names.index("outliers")]
    found[names.index("outliers")] = 0
    return found


def statistics(sketch: Sketch, benign: "Benign") -> np.ndarray:
    """All detectors on a whole window: float64 [D], in the order of `DETECTORS`."""
    return np.array([d.statistic(sketch, benign) for d in DETECTORS.values()])
