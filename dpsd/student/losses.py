"""The losses of the student: decoupled KD, Hinton's KD and the mixture likelihood.

Targets are distributions over classes: the teacher's own (mechanism none), or the posterior of the
teacher's class given its privatised answer (`posterior`).
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

LEAST = 1e-12
"""Probability that a logarithm sees where there is a smaller one."""

_TINY = 1e-7


def posterior(log_likelihood: Tensor, log_prior: Tensor, temperature: float = 1.0) -> Tensor:
    """P(class | answer) proportional to prior(c)^(1/temperature) exp(log_likelihood(c)).

    Args:
        log_likelihood: float [B, K], from the mechanism.
        log_prior: float [B, K], the student's log-probabilities.
        temperature: at least 1. Above 1 it flattens the prior, because a student that learned from
            the same answer would count it twice.

    Returns:
        float [B, K], rows sum to one.
    """
    return (log_likelihood + log_prior / temperature).softmax(1)


def soften(log_probabilities: Tensor, temperature: float) -> Tensor:
    """Probabilities at a temperature, as softmax(logits / T) gives them. [B, K] -> [B, K]."""
    return (log_probabilities / temperature).softmax(1)


def dkd_loss(
    logits: Tensor, target: Tensor, *, alpha: float, beta: float, temperature: float
) -> Tensor:
    """Decoupled knowledge distillation: T^2 (alpha TCKD + beta NCKD), mean over the batch.

    Zhao et al. 2022 (CVPR, arXiv 2203.08679, equation 7). TCKD is the divergence of the two-way
    split "target class or not". NCKD is the divergence of the distribution among the other classes.
    The target class is the target's most probable one.

    Args:
        logits: the student's, float [B, K].
        target: probabilities at this temperature already, float [B, K].
        alpha: weight of TCKD.
        beta: weight of NCKD.
        temperature: T.
    """
    chosen = target.argmax(1, keepdim=True)
    log_p = F.log_softmax(logits / temperature, dim=1)
    log_pt = log_p.gather(1, chosen)
    log_p_rest = _log_complement(log_p, chosen)
    pt = target.gather(1, chosen)
    rest = target.scatter(1, chosen, 0.0).sum(1, keepdim=True)
    tckd = _xlogx(pt) - pt * log_pt + _xlogx(rest) - rest * log_p_rest
    others = target.scatter(1, chosen, 0.0) / rest.clamp_min(_TINY)
    log_others = (log_p - log_p_rest).scatter(1, chosen, 0.0)
    nckd = (_xlogx(others) - others * log_others).sum(1, keepdim=True)
    return temperature**2 * (alpha * tckd + beta * nckd).mean()


def kd_loss(logits: Tensor, target: Tensor, *, alpha: float, temperature: float) -> Tensor:
    """Hinton's KD: alpha T^2 KL(target || student) + (1 - alpha) CE(student, argmax target).

    Hinton, Vinyals and Dean 2015 (arXiv 1503.02531).

    Args:
        logits: the student's, float [B, K].
        target: probabilities at this temperature already, float [B, K].
        alpha: mixing weight in [0, 1].
        temperature: T.
    """
    log_p = F.log_softmax(logits / temperature, dim=1)
    divergence = (_xlogx(target) - target * log_p).sum(1).mean()
    hard = F.cross_entropy(logits, target.argmax(1))
    return alpha * temperature**2 * divergence + (1 - alpha) * hard


def likelihood_loss(logits: Tensor, log_likelihood: Tensor) -> Tensor:
    """-log sum_c p_student(c) exp(log_likelihood(c)), mean over the batch.

    This is the exact negative log-likelihood of the answers under the student. Its gradient is that
    of the cross-entropy to the posterior with the student itself as prior.

    Args:
        logits: the student's, float [B, K].
        log_likelihood: of the answers, float [B, K].
    """
    joint = F.log_softmax(logits, dim=1) + log_likelihood
    return -joint.logsumexp(1).mean()


def answer_gain(logits: Tensor, log_likelihood: Tensor) -> Tensor:
    """How much better than a uniform guess the student predicts each answer, in nats, float [B].

    log sum_c p(c) exp(log_likelihood(c)) with the student's p, less the same with p = 1/K. It is 0
    for a student that knows nothing. It is defined for every mechanism, also where several classes
    are equally likely by an answer.

    Args:
        logits: the student's, float [B, K].
        log_likelihood: of the answers, float [B, K].
    """
    predicted = (F.log_softmax(logits, dim=1) + log_likelihood).logsumexp(1)
    return predicted - log_likelihood.logsumexp(1) + math.log(logits.shape[1])


def names_a_class(log_likelihood: Tensor) -> Tensor:
    """Whether an answer makes one class likelier than all others, bool [B]."""
    best = log_likelihood.topk(2, dim=1).values
    return best[:, 0] > best[:, 1]


def _xlogx(p: Tensor) -> Tensor:
    out: Tensor = torch.special.xlogy(p, p)
    return out


def _log_complement(log_p: Tensor, chosen: Tensor) -> Tensor:
    """Log of the probability of all classes but the chosen one, [B, 1], without cancellation."""
    return log_p.scatter(1, chosen, float("-inf")).logsumexp(1, keepdim=True)
