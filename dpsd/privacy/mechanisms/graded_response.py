"""The two likeliest classes and how far apart they are, pure epsilon. Unit: one answer."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from dpsd.privacy.mechanisms.base import Answers
from dpsd.privacy.mechanisms.pair_loss import PairLoss
from dpsd.privacy.mechanisms.randomized_response import PureResponse, draws62, other_width, respond
from dpsd.privacy.noise import NoiseSource

_STEP = 0.5  # width of a grade: log-odds of the first class against the second
_MOST_GRADES = 16
_KEPT = 0.95  # least probability of the true answer; it decides the number of grades
_REST = 1.5  # weight of all other classes together, against the second: a rule of thumb


@dataclass(frozen=True)
class GradedResponse(PureResponse):
    """Releases the first class, the second and a grade of their distance, pure epsilon.

    K-ary randomised response (Warner 1965; Kairouz et al. 2016, arXiv 1602.07387) over the alphabet
    of (first, second, grade): at a large epsilon per answer a class alone would release far
    less than the budget allows. An answer stands for a vector of probabilities. The student learns
    from the expected vector.
    """

    @property
    def grades(self) -> int:
        """As many as leave the true answer its probability of 0.95; 0: not even one does."""
        most = (1 - _KEPT) / _KEPT * math.exp(min(self.epsilon, 50.0)) + 1 + 1e-9
        return min(_MOST_GRADES, int(most / self._pairs))

    @property
    def soft_targets(self) -> bool:
        """An answer stands for a distribution."""
        return True

    @property
    def outcomes(self) -> int:
        """Answers that there are."""
        return self._pairs * self.grades

    @property
    def _pairs(self) -> int:
        return self.classes * (self.classes - 1)

    def facts(self) -> dict[str, object]:
        """Parameters and derivation, for plan and statement."""
        size = self.outcomes
        return {
            "mechanism": self.name,
            "kind": f"first and second class and one of {self.grades} grades of their distance",
            "epsilon_per_ask": self.epsilon,
            "top_k": None,
            "sensitivity": None,
            "derivation": "ratio of any answer's probabilities under two teachers is at most e^eps",
            "noise": f"true answer of {size} with probability e^eps/(e^eps + {size - 1}), "
            f"eps {self.epsilon:.6g} per answer",
        }

    def release(self, teacher: Tensor, prior: Tensor | None, noise: NoiseSource) -> Answers:
        """Privatise teacher probabilities, float [B, K]; the prior is not used.

        `values` numbers an answer: (first (K - 1) + second) grades + grade, where second skips
        first.
        """
        size = np.full(len(teacher), self.outcomes)
        place = respond(self.code(teacher).numpy(), size, self.epsilon, draws62(noise, len(size)))
        return Answers(torch.from_numpy(place))

    def log_ratio(
        self, answers: Answers, world0: Tensor, world1: Tensor, prior: Tensor | None
    ) -> Tensor:
        """Exact, float64 [B]: epsilon for the one true answer, minus epsilon for the other."""
        code0, code1 = self.code(torch.stack([world0, world1])).tolist()
        hit1, hit0 = answers.values == code1, answers.values == code0
        score: Tensor = self.epsilon * (hit1.double() - hit0.double())
        return score

    def pair_loss(self, asked: Answers, world0: Tensor, world1: Tensor) -> PairLoss:
        """Answers whose true codes differ: either code, or one of the others."""
        differing = int((self.code(world0) != self.code(world1)).sum())
        if not differing:
            return PairLoss(len(asked), 0)
        lie = other_width(self.epsilon, self.outcomes) / 2**62
        others = (self.outcomes - 2) * lie
        true = 1 - lie - others
        p0, p1 = np.array([true, lie, others]), np.array([lie, true, others])
        return PairLoss(len(asked), differing, outcomes=((p0, p1, differing),))

    def code(self, teacher: Tensor) -> Tensor:
        """The true answer, int64 [B]."""
        best = teacher.double().topk(2, dim=1)
        first, second = best.indices.unbind(1)
        odds = best.values.clamp_min(1e-30).log()
        grade = ((odds[:, 0] - odds[:, 1]) / _STEP).long().clamp(0, self.grades - 1)
        pair = first * (self.classes - 1) + second - (second > first).long()
        return pair * self.grades + grade

    def vectors(self, values: Tensor) -> Tensor:
        """The probabilities that answers stand for, int64 [B] -> float64 [B, K]."""
        pair, grade = values // self.grades, values % self.grades
        first, second = pair // (self.classes - 1), pair % (self.classes - 1)
        second = second + (second >= first).long()
        rest = _REST / max(1, self.classes - 2)
        weights = torch.full((len(values), self.classes), rest, dtype=torch.float64)
        weights.scatter_(1, second[:, None], 1.0)
        weights.scatter_(1, first[:, None], (_STEP * (grade.double() + 0.5)).exp()[:, None])
        return weights / weights.sum(1, keepdim=True)

    def log_likelihood(self, answers: Answers) -> Tensor:
        """Log of the teacher's expected probabilities given the answer, float32 [B, K].

        All answers count as equally likely beforehand, which makes the classes so too: it is also
        the exact log P(answer | c) up to a constant where c is drawn from the teacher's vector.
        """
        lie = other_width(self.epsilon, self.outcomes) / 2**62
        told = 1 - self.outcomes * lie  # that the answer is the true one, above one that was drawn
        return (told * self.vectors(answers.values) + (1 - told) / self.classes).log().float()


def least_epsilon(classes: int) -> float:
    """Of one ask, from which on there is a grade at all."""
    return math.log(max(1, classes * (classes - 1) - 1) * _KEPT / (1 - _KEPT))
