"""The Gaussian mechanism: a bounded vector of the teacher's, plus noise. Unit: one answer."""

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dpsd.privacy.events import GaussianRelease, Release
from dpsd.privacy.mechanisms.base import (
    Answers,
    Mechanism,
    beyond,
    gap_ratio,
    gaussian_loss,
    likeliest,
)
from dpsd.privacy.mechanisms.pair_loss import PairLoss
from dpsd.privacy.noise import NoiseSource

_REACH = 9.0  # of ChaCha20 normals by inversion: 8.3 standard deviations


@dataclass(frozen=True)
class Gaussian(Mechanism):
    """Adds N(0, sigma^2) to a vector of bounded norm (the paper's data-sensitive mode).

    Args:
        classes: K.
        sigma: standard deviation of the noise in each released coordinate.
        vector: `gradient` p_s - p_t, `probabilities` p_t, or `onehot` of the teacher's class.
        bound: `normalize` to norm C (0 stays 0), or `clip` to C.
        bound_norm: C.
        top_k: release only the k classes that the student ranks highest; None: all.
    """

    sigma: float
    vector: Literal["gradient", "probabilities", "onehot"] = "onehot"
    bound: Literal["normalize", "clip"] = "normalize"
    bound_norm: float = 1.0
    top_k: int | None = None

    @property
    def name(self) -> str:
        """Its name in the configuration."""
        return "gaussian"

    @property
    def k(self) -> int:
        """Released coordinates."""
        return self.classes if self.top_k is None else self.top_k

    @property
    def uses_prior(self) -> bool:
        """Whether the student's prediction is needed at asking."""
        return self.vector == "gradient" or self.k < self.classes

    @property
    def sensitivity(self) -> float:
        """Largest L2 distance of two vectors that may be released for one image."""
        return l2_sensitivity(self.vector, self.bound, self.bound_norm, self.k)

    @property
    def event(self) -> Release:
        """One answer, as the accountant sees it."""
        return GaussianRelease(self.sensitivity, self.sigma)

    def facts(self) -> dict[str, object]:
        """Parameters and derivation, for plan and statement."""
        return {
            "mechanism": self.name,
            "vector": self.vector,
            "bound": self.bound,
            "bound_norm": self.bound_norm,
            "top_k": self.k,
            "sensitivity": self.sensitivity,
            "derivation": _derivation(self.vector, self.bound, self.k),
            "sigma": self.sigma,
            "noise": f"Gaussian, standard deviation {self.sigma:.6g} in each of {self.k} "
            "coordinates",
        }

    def release(self, teacher: Tensor, prior: Tensor | None, noise: NoiseSource) -> Answers:
        """Privatise teacher probabilities, float [B, K]; prior float32 [B, K] or None."""
        support = None
        if self.k < self.classes:
            assert prior is not None
            support = likeliest(prior, self.k)
        vector, prior_on_support = self.bounded(teacher, prior, support)
        noisy = vector.numpy() + self.sigma * noise.normals(tuple(vector.shape))
        grid = 2.0 ** (math.floor(math.log2(self.sigma)) - 14)
        rounded = torch.from_numpy(np.rint(noisy / grid) * grid)
        return Answers(rounded.float(), support, prior=prior_on_support)

    def bounded(
        self, teacher: Tensor, prior: Tensor | None, support: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """The vector before noise, float64 [B, k], and p_s on the support where it enters."""
        if self.vector == "onehot":
            vector = torch.nn.functional.one_hot(teacher.argmax(1), self.classes).double()
        else:
            vector = teacher.double()
        if support is not None:
            vector = vector.gather(1, support)
        on_support = None
        if self.vector == "gradient":
            assert prior is not None
            on_support = (prior if support is None else prior.gather(1, support)).float()
            vector = on_support.double() - vector
        norm = vector.norm(dim=1, keepdim=True)
        scale = self._scale(norm)
        return vector * scale, on_support

    def log_likelihood(self, answers: Answers) -> Tensor:
        """-|r - v_c|^2 / 2 sigma^2 with v_c as if p_t were one-hot, up to a constant a row.

        Exact for vector `onehot`; an approximation for the soft vectors. [B, K], float32.
        """
        noisy = answers.values.double()
        if self.vector == "gradient":
            assert answers.prior is not None
            p = answers.prior.double()
            dot, norm2 = (noisy * p).sum(1, keepdim=True), p.square().sum(1, keepdim=True)
            inside = self._score(dot - noisy, (norm2 - 2 * p + 1).clamp_min(0))
            outside = self._score(dot, norm2)
        else:
            inside = self._score(noisy, torch.ones_like(noisy))
            outside = torch.zeros_like(noisy[:, :1])
        if answers.support is None:
            return inside.float()
        scores = outside.expand(-1, self.classes).clone()
        return scores.scatter_(1, answers.support.long(), inside).float()

    def log_ratio(
        self, answers: Answers, world0: Tensor, world1: Tensor, prior: Tensor | None
    ) -> Tensor:
        """Exact, float64 [B]: the bounded vectors of both worlds are the means."""
        believed = None if prior is None else prior[None]
        support = None if answers.support is None else answers.support[:1]
        mean0, mean1 = (self.bounded(w[None], believed, support)[0] for w in (world0, world1))
        return gap_ratio(answers.values.double(), mean0, mean1, self.sigma)

    def pair_loss(self, asked: Answers, world0: Tensor, world1: Tensor) -> PairLoss:
        """Distances of the bounded vectors compose as mu squared."""
        prior = asked.prior
        if prior is not None and asked.support is not None:
            everywhere = torch.zeros(len(asked), self.classes)
            prior = everywhere.scatter_(1, asked.support, prior)
        mean0, mean1 = (self.bounded(w, prior, asked.support)[0] for w in (world0, world1))
        return gaussian_loss((mean0 - mean1).square().sum(1), self.sigma)

    def values_spec(self, rows: int) -> tuple[str, tuple[int, ...]]:
        """Floats [B, k]."""
        return "f", (rows, self.k)

    def impossible(self, values: NDArray[Any], asked: Answers) -> str | None:
        """The bounded vector plus the farthest noise."""
        return beyond(values.astype(np.float32), self.bound_norm + _REACH * self.sigma)

    def _score(self, dot: Tensor, norm2: Tensor) -> Tensor:
        """(s r.v - s^2 |v|^2 / 2) / sigma^2, where s v is the bounded vector."""
        scale = self._scale(norm2.sqrt())
        return (scale * dot - scale.square() * norm2 / 2) / self.sigma**2

    def _scale(self, norm: Tensor) -> Tensor:
        ratio = torch.where(norm > 1e-12, self.bound_norm / norm.clamp_min(1e-12), 0.0)
        return ratio if self.bound == "normalize" else ratio.clamp_max(1.0)


def l2_sensitivity(vector: str, bound: str, c: float, k: int) -> float:
    """Diameter of the set of vectors that one image can give, for any two teachers.

    Args:
        vector: `gradient`, `probabilities` or `onehot`.
        bound: `normalize` or `clip`.
        c: the norm C.
        k: released coordinates.
    """
    if vector == "gradient":
        if bound == "normalize":
            return 2 * c
        return min(2 * c, 1.0 if k == 1 else math.sqrt(2))
    radius = c if bound == "normalize" else min(c, 1.0)
    return radius if k == 1 else math.sqrt(2) * radius


def _derivation(vector: str, bound: str, k: int) -> str:
    if vector == "gradient":
        if bound == "normalize":
            return "2 C: opposite vectors of norm C"
        span = "1" if k == 1 else "sqrt(2)"
        return f"min(2 C, {span}): the student's part cancels, and clipping is non-expansive"
    radius = "C" if bound == "normalize" else "min(C, 1)"
    if k == 1:
        return f"{radius}: one non-negative coordinate of at most this size"
    return f"sqrt(2) {radius}: orthogonal non-negative vectors of norm {radius}"
