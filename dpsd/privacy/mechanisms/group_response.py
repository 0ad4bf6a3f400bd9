"""Yes or no to a public group of classes, pure epsilon. Unit: one answer."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dpsd.privacy.mechanisms.base import Answers
from dpsd.privacy.mechanisms.randomized_response import (
    PureResponse,
    counted,
    draws62,
    other_width,
    place_of,
)
from dpsd.privacy.noise import NoiseSource


@dataclass(frozen=True)
class GroupResponse(PureResponse):
    """Releases yes or no to "is the teacher's class in this group?", pure epsilon.

    Warner's randomised response (1965, JASA 60) on a public question: for each image a group of
    classes is drawn to which the prior gives about one half, so that every answer carries as much
    as one bit at this epsilon can, however many classes there are and wherever the truth lies.
    """

    uses_prior: bool = True

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
        true = place_of(teacher.argmax(1).numpy(), order, size) >= 0
        lie = draws62(noise, rows) < np.uint64(other_width(self.epsilon, 2))
        labels = torch.from_numpy((true ^ lie).astype(np.int64))
        return Answers(labels, torch.from_numpy(order), torch.from_numpy(size))

    @property
    def outcomes(self) -> int:
        """No and yes."""
        return 2

    @property
    def draws_support(self) -> bool:
        """The group is drawn with the answer."""
        return True

    def impossible(self, values: NDArray[Any], asked: Answers) -> str | None:
        """Yes or no, to a group of some of the classes."""
        assert asked.size is not None
        size = asked.size.numpy()
        neither = ((values != 0) & (values != 1)).any()
        if neither or (size < 1).any() or (size >= self.classes).any():
            return "an answer that is neither yes nor no, or a group of none or all classes"
        return None

    def _groups(self, prior: np.ndarray, noise: NoiseSource) -> tuple[np.ndarray, np.ndarray]:
        """A random order of the classes and where to cut it, nearest to half of the prior."""
        order = noise.integers(prior.shape).argsort(1, kind="stable")
        mass = np.take_along_axis(prior, order, 1).cumsum(1)[:, :-1]
        return order, np.abs(mass - 0.5).argmin(1) + 1

    def log_likelihood(self, answers: Answers) -> Tensor:
        """Exact: log P(yes or no | c), float32 [B, K]."""
        agrees = counted(answers, self.classes) == (answers.values[:, None] == 1)
        lie = -math.log1p(math.exp(self.epsilon))
        return torch.where(agrees, self.epsilon + lie, lie).float()
