"""The weights of a linear classifier from its answers: least squares, or largest likelihood."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

_RIDGE = 1e-9  # of the mean diagonal: float32 answers say nothing of weaker directions
_LEAST_SPREAD = 1e-6  # of a column, by the largest
_PENALTY = 1e-4  # on squared weights of standardised columns, for each answer
_STEPS = 100


@dataclass(frozen=True)
class Solution:
    """A linear layer: weight float64 [K, F], bias float64 [K]."""

    weight: Tensor
    bias: Tensor


@dataclass(frozen=True)
class _Columns:
    """How features become columns of mean 0 and standard deviation 1."""

    mean: Tensor
    spread: Tensor

    @staticmethod
    def of(features: Tensor) -> "_Columns":
        mean, spread = features.mean(0), features.std(0, unbiased=False)
        return _Columns(mean, spread.clamp_min(_LEAST_SPREAD * float(spread.max())))

    def apply(self, features: Tensor) -> Tensor:
        return (features - self.mean) / self.spread

    def back(self, weight: Tensor, bias: Tensor) -> Solution:
        """The layer on the features themselves, of one on the columns."""
        own = weight.double() / self.spread
        return Solution(own, bias.double() - own @ self.mean)


def from_logits(features: Tensor, answers: Tensor) -> Solution:
    """Least squares on centred log-probabilities, in float64.

    Log-probabilities less their mean over the classes are the logits less theirs. A weak ridge
    decides directions that no answer shows.

    Args:
        features: float [N, F], read by the linear layer.
        answers: probabilities, float32 [N, K]; rows with a 0 are left out while others are there.
    """
    whole = (answers > 0).all(1)
    if whole.any():
        features, answers = features[whole], answers[whole]
    logs = answers.double().clamp_min(1e-45).log()
    logits = logs - logs.mean(1, keepdim=True)
    columns = _Columns.of(features.double())
    x, bias = columns.apply(features.double()), logits.mean(0)
    y = logits - bias
    if len(x) < x.shape[1]:  # the smaller of the two systems
        gram = x @ x.T
        weight = x.T @ _solve(gram, y)
    else:
        weight = _solve(x.T @ x, x.T @ y)
    return columns.back(weight.T, bias)


def _solve(gram: Tensor, right: Tensor) -> Tensor:
    """(gram + ridge)^-1 right, for a positive semidefinite matrix."""
    gram.diagonal().add_(_RIDGE * gram.diagonal().mean())
    factor, failed = torch.linalg.cholesky_ex(gram)
    if failed:  # rounding made it indefinite
        gram.diagonal().add_(1e3 * _RIDGE * gram.diagonal().mean())
        factor = torch.linalg.cholesky(gram)
    return torch.cholesky_solve(right, factor)


def from_likelihood(features: Tensor, answers: Tensor) -> Solution:
    """The layer of largest likelihood, with a small penalty: multinomial logistic regression.

    Args:
        features: float [N, F].
        answers: probabilities, or 1 for the named class, float [N, K].
    """
    columns = _Columns.of(features.double())
    x = columns.apply(features.double()).float()
    weight = torch.zeros(answers.shape[1], x.shape[1], requires_grad=True)
    bias = torch.zeros(answers.shape[1], requires_grad=True)
    targets = answers / answers.sum(1, keepdim=True).clamp_min(1e-6)
    optimizer = torch.optim.LBFGS(
        [weight, bias], max_iter=_STEPS, history_size=10, line_search_fn="strong_wolfe"
    )

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = F.cross_entropy(F.linear(x, weight, bias), targets)
        value = value + _PENALTY / 2 * weight.square().sum()
        value.backward()
        return value

    optimizer.step(loss)
    return columns.back(weight.detach(), bias.detach())
