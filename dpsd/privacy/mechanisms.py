"""The randomised functions inside the oracle: what is released, and what it says of each class.

A mechanism turns the teacher's probabilities into `Answers`. Everything in `Answers` is released;
`log_likelihood` is post-processing. Unit of every guarantee here: one answer.
"""

import math
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import torch
from torch import Tensor

from dpsd.privacy import accounting
from dpsd.privacy.noise import NoiseSource


@dataclass(frozen=True)
class Answers:
    """What came through the door for B images: public from here on.

    Attributes:
        values: `gaussian` float32 [B, k], noisy; `randomized_response` int64 [B], labels;
            `none` float32 [B, K], log-probabilities.
        support: int64 [B, k], classes by the student's ranking, best first; None: all classes.
        size: `randomized_response` int64 [B], how many of `support` count for a row.
        prior: `gaussian` with vector `gradient`, float32 [B, k], the student's p_s on the support.
    """

    values: Tensor
    support: Tensor | None = None
    size: Tensor | None = None
    prior: Tensor | None = None

    def __len__(self) -> int:
        return len(self.values)


class Mechanism(Protocol):
    """A randomised function of the teacher's probabilities, with its exact guarantee."""

    @property
    def classes(self) -> int:
        """K."""

    @property
    def name(self) -> str:
        """Its name in the configuration."""

    @property
    def uses_prior(self) -> bool:
        """Whether the student's prediction is needed at asking."""

    @property
    def event(self) -> accounting.Release:
        """One answer, as the accountant sees it."""

    def facts(self) -> dict[str, object]:
        """Parameters and derivation, for plan and statement."""

    def release(self, teacher: Tensor, prior: Tensor | None, noise: NoiseSource) -> Answers:
        """Privatise teacher probabilities, float [B, K]; prior float32 [B, K] or None."""

    def log_likelihood(self, answers: Answers) -> Tensor:
        """Log p(answer | the teacher's class is c), float32 [B, K], up to a constant a row."""


@dataclass(frozen=True)
class Gaussian:
    """Adds N(0, sigma^2) to a vector of bounded norm (the paper's data-sensitive mode).

    Args:
        classes: K.
        sigma: deviation of the noise in each released coordinate.
        vector: `gradient` p_s - p_t, `probabilities` p_t, or `onehot` of the teacher's class.
        bound: `normalize` to norm C (0 stays 0), or `clip` to C.
        bound_norm: C.
        top_k: release only the k classes that the student ranks highest; None: all.
    """

    classes: int
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
    def event(self) -> accounting.Release:
        """One answer, as the accountant sees it."""
        return accounting.GaussianRelease(self.sensitivity, self.sigma)

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
            "noise": f"Gaussian, deviation {self.sigma:.6g} in each of {self.k} coordinates",
        }

    def release(self, teacher: Tensor, prior: Tensor | None, noise: NoiseSource) -> Answers:
        """Privatise teacher probabilities, float [B, K]; prior float32 [B, K] or None."""
        support = None
        if self.k < self.classes:
            assert prior is not None
            support = prior.topk(self.k, dim=1).indices
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


_RANGE = 2**62


@dataclass(frozen=True)
class RandomizedResponse:
    """Releases a label (the paper's label-sensitive mode), pure epsilon.

    `top_k=None` with a prior is RRWithPrior: k maximises the chance of the true label under the
    student's prediction; `top_k=k` is RRTop-k; without prior it is plain K-ary randomised response
    (Ghazi et al. 2021, arXiv 2102.06062, algorithms 1 and 2). A true class outside the top k gives
    a uniform draw over the k.
    """

    classes: int
    epsilon: float
    top_k: int | None = None
    uses_prior: bool = True

    @property
    def name(self) -> str:
        """Its name in the configuration."""
        return "randomized_response"

    @property
    def event(self) -> accounting.Release:
        """One answer, as the accountant sees it."""
        return accounting.PureRelease(self.epsilon)

    def facts(self) -> dict[str, object]:
        """Parameters and derivation, for plan and statement."""
        if not self.uses_prior:
            kind = f"plain, over all {self.classes} classes"
        elif self.top_k is not None:
            kind = f"RRTop-k, k = {self.top_k} by the student's ranking"
        else:
            kind = f"RRWithPrior, k from 2 to {self.classes} by the student's prediction"
        return {
            "mechanism": self.name,
            "kind": kind,
            "epsilon_per_ask": self.epsilon,
            "top_k": self.top_k,
            "sensitivity": None,
            "derivation": "ratio of any label's probabilities under two teachers is at most e^eps",
            "noise": f"true label with probability e^eps/(e^eps + k - 1), eps {self.epsilon:.6g} "
            "per answer",
        }

    def release(self, teacher: Tensor, prior: Tensor | None, noise: NoiseSource) -> Answers:
        """Privatise teacher probabilities, float [B, K]; prior float32 [B, K] or None."""
        true = teacher.argmax(1).numpy()
        rows = len(true)
        if self.uses_prior:
            assert prior is not None
            ranked, support = prior.double().sort(dim=1, descending=True, stable=True)
            size = self._sizes(ranked).numpy()
            width = int(size.max()) if rows else self.classes
            order = support[:, :width].numpy()
        else:
            size = np.full(rows, self.classes)
            order = np.broadcast_to(np.arange(self.classes), (rows, self.classes))
        draws = noise.integers((rows,)) >> np.uint64(2)
        place = self._draw_place(_place_of(true, order, size), size, draws)
        labels = torch.from_numpy(order[np.arange(rows), place].copy())
        if not self.uses_prior:
            return Answers(labels)
        return Answers(labels, torch.from_numpy(order.copy()), torch.from_numpy(size))

    def probabilities(self, true_place: int | None, k: int) -> np.ndarray:
        """P(place) over k places when the true class has `true_place` (None: outside), float64."""
        if true_place is None:
            return np.full(k, 1 / k)
        other = int(_other_width(self.epsilon, k)) / _RANGE
        out = np.full(k, other)
        out[true_place] = 1 - (k - 1) * other
        return out

    def log_likelihood(self, answers: Answers) -> Tensor:
        """Exact: log P(label | c), float32 [B, K]."""
        labels = answers.values.long()
        rows = len(labels)
        if answers.support is None or answers.size is None:
            size = torch.full((rows, 1), float(self.classes))
            inside = torch.ones((rows, self.classes), dtype=torch.bool)
        else:
            size = answers.size.double()[:, None]
            counted = torch.arange(answers.support.shape[1])[None] < answers.size[:, None]
            inside = torch.zeros((rows, self.classes), dtype=torch.bool)
            inside.scatter_(1, answers.support.long(), counted)
        shrink = math.exp(-self.epsilon)
        hit = torch.nn.functional.one_hot(labels, self.classes).bool()
        within = self.epsilon * (hit.double() - 1) - torch.log1p((size - 1) * shrink)
        return torch.where(inside, within, -torch.log(size)).float()

    def _sizes(self, ranked: Tensor) -> Tensor:
        """K of each row, int64 [B], from the prior sorted downwards."""
        if self.top_k is not None:
            return torch.full((len(ranked),), self.top_k)
        k = torch.arange(1, self.classes + 1, dtype=torch.float64)
        gain = ranked.cumsum(1) / (1 + (k - 1) * math.exp(-self.epsilon))
        return gain[:, 1:].argmax(1) + 2

    def _draw_place(self, true: np.ndarray, size: np.ndarray, draws: np.ndarray) -> np.ndarray:
        """Place of the released label from 62-bit draws; true == -1: outside the support.

        [0, 2^62) is cut into k - 1 intervals of equal width for the wrong labels and the rest for
        the true one. Rounding widens the wrong ones, so the ratio stays at or below e^eps.
        """
        wrong = np.array(
            [0, 0] + [_other_width(self.epsilon, k) for k in range(2, size.max(initial=2) + 1)],
            dtype=np.uint64,
        )[size]
        uniform = np.array(
            [1] + [-(-_RANGE // k) for k in range(1, size.max(initial=2) + 1)], dtype=np.uint64
        )[size]
        other = (draws // wrong).astype(np.int64)
        other_place = other + (other >= true)
        keep = other >= size - 1
        inside = np.where(keep, true, other_place)
        return np.where(true < 0, (draws // uniform).astype(np.int64), inside)


def _other_width(epsilon: float, k: int) -> int:
    """Width in [0, 2^62) of one wrong label, rounded up past the error of the float formula."""
    shrink = math.exp(-epsilon)  # stays finite where e^eps would not
    return math.ceil(_RANGE * shrink / (1 + (k - 1) * shrink) * (1 + 2.0**-48)) + 1


def _place_of(true: np.ndarray, order: np.ndarray, size: np.ndarray) -> np.ndarray:
    """Place of the true class among the first `size` of `order`, or -1."""
    matches = (order == true[:, None]) & (np.arange(order.shape[1])[None] < size[:, None])
    return np.where(matches.any(1), matches.argmax(1), -1)


@dataclass(frozen=True)
class GroupResponse:
    """Releases yes or no to "is the teacher's class in this group?", pure epsilon.

    Warner's randomised response (1965, JASA 60) on a public question: for each image a group of
    classes is drawn to which the prior gives about one half, so that every answer carries as much
    as one bit at this epsilon can, however many classes there are and wherever the truth lies.
    """

    classes: int
    epsilon: float
    uses_prior: bool = True

    @property
    def name(self) -> str:
        """Its name in the configuration."""
        return "randomized_response"

    @property
    def event(self) -> accounting.Release:
        """One answer, as the accountant sees it."""
        return accounting.PureRelease(self.epsilon)

    def facts(self) -> dict[str, object]:
        """Parameters and derivation, for plan and statement."""
        return {
            "mechanism": self.name,
            "kind": "yes or no to whether the class is in a group, a public half of the prior",
            "epsilon_per_ask": self.epsilon,
            "top_k": None,
            "sensitivity": None,
            "derivation": "ratio of yes's and of no's probabilities under two teachers is e^eps",
            "noise": f"true answer with probability e^eps/(e^eps + 1), eps {self.epsilon:.6g} "
            "per answer",
        }

    def release(self, teacher: Tensor, prior: Tensor | None, noise: NoiseSource) -> Answers:
        """Privatise teacher probabilities, float [B, K]; prior float32 [B, K] or None.

        `values` is 1 for yes and 0 for no; the first `size` classes of `support` are the group.
        """
        rows = len(teacher)
        believed = np.full((rows, self.classes), 1 / self.classes)
        if self.uses_prior:
            assert prior is not None
            believed = prior.double().numpy()
        order, size = self._groups(believed, noise)
        true = _place_of(teacher.argmax(1).numpy(), order, size) >= 0
        lie = (noise.integers((rows,)) >> np.uint64(2)) < np.uint64(_other_width(self.epsilon, 2))
        labels = torch.from_numpy((true ^ lie).astype(np.int64))
        return Answers(labels, torch.from_numpy(order), torch.from_numpy(size))

    def _groups(self, prior: np.ndarray, noise: NoiseSource) -> tuple[np.ndarray, np.ndarray]:
        """A random order of the classes and where to cut it, nearest to half of the prior."""
        order = noise.integers(prior.shape).argsort(1, kind="stable")
        mass = np.take_along_axis(prior, order, 1).cumsum(1)[:, :-1]
        return order, np.abs(mass - 0.5).argmin(1) + 1

    def log_likelihood(self, answers: Answers) -> Tensor:
        """Exact: log P(yes or no | c), float32 [B, K]."""
        assert answers.support is not None and answers.size is not None
        counted = torch.arange(self.classes)[None] < answers.size[:, None]
        inside = torch.zeros(counted.shape, dtype=torch.bool)
        inside.scatter_(1, answers.support.long(), counted)
        agrees = inside == (answers.values[:, None] == 1)
        lie = -math.log1p(math.exp(self.epsilon))
        return torch.where(agrees, self.epsilon + lie, lie).float()


@dataclass(frozen=True)
class NoMechanism:
    """Releases the teacher's probabilities as they are: not private, eps = inf."""

    classes: int

    @property
    def name(self) -> str:
        """Its name in the configuration."""
        return "none"

    @property
    def uses_prior(self) -> bool:
        """Whether the student's prediction is needed at asking."""
        return False

    @property
    def event(self) -> accounting.Release:
        """One answer, as the accountant sees it."""
        return accounting.OpenRelease()

    def facts(self) -> dict[str, object]:
        """Parameters and derivation, for plan and statement."""
        return {
            "mechanism": self.name,
            "sensitivity": None,
            "derivation": "nothing is privatised",
            "noise": "none",
        }

    def release(self, teacher: Tensor, prior: Tensor | None, noise: NoiseSource) -> Answers:
        """The log-probabilities, float32 [B, K]."""
        return Answers(teacher.double().clamp_min(1e-30).log().float())

    def log_likelihood(self, answers: Answers) -> Tensor:
        """The teacher's own log-probabilities, float32 [B, K]."""
        return answers.values
