"""A student of votes: least squares on released vote shares, in closed form.

The counts of a noisy histogram, divided by the number of teachers, are unbiased estimates of the
vote shares however large the noise is. Regressing them on fixed scattering features averages the
noise over all answers, where a network that is trained on a few thousand of them fits it.
"""

import contextlib
from typing import Any

import torch
from torch import Tensor

from dpsd.generator.bank import Bank
from dpsd.linear import RidgeNet
from dpsd.privacy.mechanisms import Answers, Mechanism
from dpsd.privacy.votes import NoisyVotes
from dpsd.student import Student, as_input

_PENALTIES = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
_SCALES = tuple(2.0**i for i in range(8))
_TESTED = 5  # every fifth answer chooses the penalty
_CHUNK = 512


class RidgeStudent(Student):
    """A student that is solved for, not trained; the bank holds vote shares, float [B, K].

    Arguments as of `Student`; `student.model` is scatter-ridge and `student.loss` shares.
    """

    def read(self, mechanism: Mechanism, answers: Answers) -> Tensor:
        """Released counts as shares of the votes, float32 [B, K]: unbiased, also below 0."""
        assert isinstance(mechanism, NoisyVotes)
        return (answers.values.double() / mechanism.voters).float()

    def _start(self, seed: int, steps: int) -> None:
        super()._start(seed, steps)
        self._features = torch.empty((0, 0))

    def fit(self, bank: Bank, new: int) -> dict[str, float]:
        """Solve on the whole bank; figures as of `Student.fit`."""
        model = self.average
        assert isinstance(model, RidgeNet)
        features = self._features_of(bank, new)
        shares = bank.scores[: len(bank)]
        weight, bias = ridge_regression(features, shares)
        fitted = features @ weight + bias
        scale = best_scale(fitted, shares)
        with torch.no_grad():
            model.head.weight.copy_((scale * weight).mT)
            model.head.bias.copy_(scale * bias)
        self.model.load_state_dict(model.state_dict())
        return {
            "loss": cross_entropy(scale * fitted, shares),
            "agreement_with_answers": float((fitted.argmax(1) == shares.argmax(1)).float().mean()),
        }

    def refit(self, bank: Bank) -> dict[str, float]:
        """Nothing: the last round's solution knows all answers."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """The solution; features are computed again."""
        return {"average": self.average.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of `state_dict`."""
        self.average.load_state_dict(state["average"])
        self.model.load_state_dict(state["average"])

    def _autocast(self) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()  # a solved layer's weights cancel: they need float32

    def _features_of(self, bank: Bank, new: int) -> Tensor:
        """Features of the whole bank, float32 [B, F]; those of earlier rounds are kept."""
        known = len(self._features)
        if known + new != len(bank) or bank.added > len(bank.images):
            known = 0
        parts = [self._features[:known]] if known else []
        model = self.average
        assert isinstance(model, RidgeNet)
        with torch.no_grad():
            for images in bank.images[known : len(bank)].split(_CHUNK):
                parts.append(model.features(as_input(images.to(self.device))).cpu())
        self._features = torch.cat(parts)
        return self._features


def ridge_regression(features: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Weights float32 [F, K] and intercepts float32 [K]; Hoerl and Kennard 1970.

    The penalty is the one of a grid that foretells every fifth row best from the others; the
    targets' noise adds the same to all of them.

    Args:
        features: float32 [B, F].
        targets: float32 [B, K].
    """
    tested = torch.arange(len(features)) % _TESTED == 0
    penalty = _PENALTIES[-1]
    if len(features) > _TESTED:
        x, t = features[tested], targets[tested]
        fits = _solutions(features[~tested], targets[~tested], _PENALTIES)
        errors = [float((x @ w + b - t).square().mean()) for w, b in fits]
        penalty = _PENALTIES[errors.index(min(errors))]
    return _solutions(features, targets, (penalty,))[0]


def _solutions(x: Tensor, t: Tensor, penalties: tuple[float, ...]) -> list[tuple[Tensor, Tensor]]:
    """Least squares with each penalty, with an intercept, by the smaller of both normal forms."""
    mean, level = x.mean(0), t.mean(0)
    centred, rest = (x - mean).double(), (t - level).double()
    dual = len(x) < x.shape[1]
    gram = centred @ centred.mT if dual else centred.mT @ centred
    right = rest if dual else centred.mT @ rest
    out = []
    for penalty in penalties:
        damped = gram.clone()
        damped.diagonal().add_(penalty)
        w = torch.cholesky_solve(right, torch.linalg.cholesky(damped))
        w = (centred.mT @ w if dual else w).float()
        out.append((w, level - mean @ w))
    return out


def best_scale(fitted: Tensor, shares: Tensor) -> float:
    """The factor on fitted shares whose softmax foretells the votes best."""
    return min(_SCALES, key=lambda scale: cross_entropy(scale * fitted, shares))


def cross_entropy(logits: Tensor, shares: Tensor) -> float:
    """Of votes under the softmax of logits [B, K], nats a vote; unbiased for unbiased shares."""
    return float(-(shares * logits.log_softmax(1)).sum(1).mean())
