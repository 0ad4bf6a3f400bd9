"""Randomised response: a label by the student's ranking, pure epsilon. Unit: one answer."""

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dpsd.privacy.events import PureRelease, Release
from dpsd.privacy.mechanisms.base import Answers, Mechanism
from dpsd.privacy.mechanisms.pair_loss import Floats, PairLoss, outcomes_loss
from dpsd.privacy.noise import NoiseSource

_RANGE = 2**62
_CHUNK = 50_000


@dataclass(frozen=True)
class PureResponse(Mechanism):
    """What the kinds of randomised response share: an answer of pure epsilon.

    Args:
        classes: K.
        epsilon: of one ask.
    """

    epsilon: float

    @property
    def name(self) -> str:
        """Its name in the configuration."""
        return "randomized_response"

    @property
    def event(self) -> Release:
        """One answer, as the accountant sees it."""
        return PureRelease(self.epsilon)

    @property
    def outcomes(self) -> int:
        """Values that an answer may have: 0 up to this."""
        return self.classes

    def pair_loss(self, asked: Answers, world0: Tensor, world1: Tensor) -> PairLoss:
        """Answers whose true class differs, by the probabilities of their outcomes."""
        class0, class1 = world0.argmax(1), world1.argmax(1)
        probabilities: list[list[Floats]] = [[], []]
        for rows in (class0 != class1).nonzero()[:, 0].split(_CHUNK):
            part = _rows_of(asked, rows)
            for world, classes in enumerate((class0, class1)):
                probabilities[world].append(self.outcome_probabilities(part, classes[rows]))
        if not probabilities[0]:
            return PairLoss(len(asked), 0)
        return outcomes_loss(len(asked), *(np.concatenate(p) for p in probabilities))

    def outcome_probabilities(self, asked: Answers, classes: Tensor) -> Floats:
        """P(outcome) of each answer if the teacher's class is the given one, float64 [B, V].

        Args:
            asked: whose support and size are public.
            classes: int64 [B].
        """
        columns = []
        for value in range(self.outcomes):
            given = replace(asked, values=torch.full((len(asked),), value))
            columns.append(self.log_likelihood(given).gather(1, classes[:, None])[:, 0])
        p = torch.stack(columns, 1).double().exp()
        if not self.draws_support and asked.support is not None:
            p = p * counted(asked, self.classes)  # the labels that can come out at all
        return (p / p.sum(1, keepdim=True)).numpy()

    def values_spec(self, rows: int) -> tuple[str, tuple[int, ...]]:
        """Whole numbers [B]."""
        return "iu", (rows,)

    def impossible(self, values: NDArray[Any], asked: Answers) -> str | None:
        """Labels are among those that the question allows."""
        if asked.support is None or asked.size is None:
            fits = (values >= 0) & (values < self.outcomes)
        else:
            within = np.arange(asked.support.shape[1])[None] < asked.size.numpy()[:, None]
            fits = ((asked.support.numpy() == values[:, None]) & within).any(1)
        return None if fits.all() else "labels that the question does not allow"


@dataclass(frozen=True)
class RandomizedResponse(PureResponse):
    """Releases a label (the paper's label-sensitive mode), pure epsilon.

    `top_k=None` with a prior is RRWithPrior: k maximises the probability of the true label under
    the student's prediction; `top_k=k` is RRTop-k; without prior it is plain K-ary randomised
    response (Ghazi et al. 2021, arXiv 2102.06062, algorithms 1 and 2). A true class outside the top
    k gives a uniform draw over the k.
    """

    top_k: int | None = None
    uses_prior: bool = True

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
        draws = draws62(noise, rows)
        place = respond(place_of(true, order, size), size, self.epsilon, draws)
        labels = torch.from_numpy(order[np.arange(rows), place].copy())
        if not self.uses_prior:
            return Answers(labels)
        return Answers(labels, torch.from_numpy(order.copy()), torch.from_numpy(size))

    def probabilities(self, true_place: int | None, k: int) -> np.ndarray:
        """P(place) over k places when the true class has `true_place` (None: outside), float64."""
        if true_place is None:
            return np.full(k, 1 / k)
        other = int(other_width(self.epsilon, k)) / _RANGE
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
            inside = counted(answers, self.classes)
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


def respond(true: np.ndarray, size: np.ndarray, epsilon: float, draws: np.ndarray) -> np.ndarray:
    """K-ary randomised response: the released place, int64 [B].

    [0, 2^62) is cut into k - 1 intervals of equal width for the wrong places and the rest for the
    true one. Rounding widens the wrong ones, so the ratio stays at or below e^eps.

    Args:
        true: int64 [B], in 0 ... size - 1; -1: none of them, for a uniform draw.
        size: int64 [B], k of each row, at least 2.
        epsilon: of one ask.
        draws: from `draws62`.
    """
    sizes = np.unique(size)
    row = np.searchsorted(sizes, size)
    wrong = np.array([other_width(epsilon, int(k)) for k in sizes], dtype=np.uint64)[row]
    uniform = np.array([-(-_RANGE // int(k)) for k in sizes], dtype=np.uint64)[row]
    other = (draws // wrong).astype(np.int64)
    other_place = other + (other >= true)
    keep = other >= size - 1
    inside = np.where(keep, true, other_place)
    return np.where(true < 0, (draws // uniform).astype(np.int64), inside)


def other_width(epsilon: float, k: int) -> int:
    """Width in [0, 2^62) of one wrong label, rounded up past the error of the float formula."""
    shrink = math.exp(-epsilon)  # stays finite where e^eps would not
    return math.ceil(_RANGE * shrink / (1 + (k - 1) * shrink) * (1 + 2.0**-48)) + 1


def place_of(true: np.ndarray, order: np.ndarray, size: np.ndarray) -> np.ndarray:
    """Place of the true class among the first `size` of `order`, or -1."""
    matches = (order == true[:, None]) & (np.arange(order.shape[1])[None] < size[:, None])
    return np.where(matches.any(1), matches.argmax(1), -1)


def draws62(noise: NoiseSource, rows: int) -> np.ndarray:
    """Uniform on 0 ... 2^62 - 1, uint64 [rows]."""
    return noise.integers((rows,)) >> np.uint64(2)


def counted(answers: Answers, classes: int) -> Tensor:
    """Which classes are among the first `size` of `support`, bool [B, K]."""
    assert answers.support is not None and answers.size is not None
    within = torch.arange(answers.support.shape[1])[None] < answers.size[:, None]
    inside = torch.zeros((len(answers), classes), dtype=torch.bool)
    return inside.scatter_(1, answers.support.long(), within)


def _rows_of(answers: Answers, rows: Tensor) -> Answers:
    support = None if answers.support is None else answers.support[rows]
    size = None if answers.size is None else answers.size[rows]
    return Answers(answers.values[rows], support, size)
