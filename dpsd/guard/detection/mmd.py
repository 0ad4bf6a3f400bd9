"""Does a window of questions come from where honest ones come from? Maximum mean discrepancy.

Gretton et al. 2012, with random Fourier features (Rahimi and Recht 2007): the mean of D cosines of
a window's features against that of a benign reference. A question costs one product, a window D
numbers of memory.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dpsd.errors import UserError

Floats = NDArray[np.float32]

FEATURES = 256
_LEAST = 500  # benign questions
_PAIRS = 2_000  # from which the kernel's width is taken


@dataclass(frozen=True)
class Kernel:
    """A Gaussian kernel by random cosines, and the benign reference's mean.

    Attributes:
        directions: float32 [F, D].
        phases: float32 [D].
        mean: of the benign reference, float64 [D].
    """

    directions: Floats
    phases: Floats
    mean: NDArray[np.float64]

    def map(self, features: Floats) -> Floats:
        """Random cosines float32 [B, D] of features float32 [B, F]."""
        cosines: Floats = np.cos(features @ self.directions + self.phases)
        return cosines * np.float32(np.sqrt(2 / len(self.phases)))

    def statistic(self, total: NDArray[np.float64], count: int) -> float:
        """`count` times the squared distance of a window's mean to the reference's.

        Args:
            total: the sum of `map` over the window, float64 [D].
            count: questions in the window, at least 1.
        """
        return float(count * ((total / count - self.mean) ** 2).sum())


def fit_kernel(benign: Floats, seed: int = 0) -> Kernel:
    """A kernel for benign features: its width is the median distance of pairs.

    Args:
        benign: float32 [N, F], the features of at least 500 honest questions.
        seed: of directions, phases and pairs; part of the guard's secret, since who knows it can
            look for questions that the cosines do not see.

    Raises:
        UserError: too few questions, or features that are all the same.
    """
    if benign.ndim != 2 or len(benign) < _LEAST:
        raise UserError(f"reference: {len(benign)} questions; accepted: at least {_LEAST}")
    rng = np.random.default_rng(seed)
    one, other = (benign[rng.integers(0, len(benign), _PAIRS)] for _ in range(2))
    width = float(np.median(np.linalg.norm(one - other, axis=1)))
    if not width > 0:
        raise UserError("reference: all features are the same; give other honest questions")
    directions = rng.normal(0, 1 / width, (benign.shape[1], FEATURES)).astype(np.float32)
    phases = rng.uniform(0, 2 * np.pi, FEATURES).astype(np.float32)
    plain = Kernel(directions, phases, np.zeros(FEATURES))
    mean = np.mean([plain.map(part).astype(np.float64).mean(0) for part in _parts(benign)], axis=0)
    return Kernel(directions, phases, mean)


def window_statistics(kernel: Kernel, features: Floats, size: int) -> NDArray[np.float64]:
    """Statistics of whole windows of consecutive questions: float64 [N // size]."""
    windows = len(features) // size
    mapped = kernel.map(features[: windows * size]).astype(np.float64)
    totals = mapped.reshape(windows, size, -1).sum(1)
    return np.array([kernel.statistic(total, size) for total in totals])


def _parts(rows: Floats) -> list[Floats]:
    """Equal parts that fit in memory once mapped; at most seven rows are left out."""
    parts = max(1, len(rows) // 4096)
    even = len(rows) - len(rows) % parts
    return np.split(rows[:even], parts)
