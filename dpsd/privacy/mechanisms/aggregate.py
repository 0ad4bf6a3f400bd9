"""How one answer is made of the clients': aggregation that knows about clients who know little.

All of it is post-processing of what was released; none of it reads a client's data. Let L_i(c) be
the log-likelihood of client i's answer under "the client's class is c". A client that never saw a
class names another one, so that its class is not the true one:

plain: sum_i L_i(c), as if all clients knew all classes; without a claim the mean of p_i.
confidence: each answer weighs by how decided it is itself, 1 - entropy / log K, beside the others.
labels: log [k_i(c) exp L_i(c) + (1 - k_i(c)) sum_t pi_i(t) exp L_i(t)], summed; k_i(c), how well
    client i knows class c, and pi_i, what it names otherwise, come from its label histogram.
    Without a claim the mean of p_i, class c weighing k_i(c).
learned: log sum_t M_i[c, t] exp L_i(t), summed; the confusion matrices M_i are estimated from the
    released answers alone by expectation maximisation (Dawid and Skene 1979, Appl. Statist. 28).
    With a claim only: it needs many doubtful answers, and sure ones mislead it.
logits: sum_i L_i / n, the ensemble of the teachers' logits; without a claim only.
"""

import math

import torch
from torch import Tensor

_ITERATIONS = 30
_PSEUDO = 1.0  # images' worth of prior belief, on the diagonal and spread evenly
_KNOWN = 30.0  # rows of a class at which a client is as likely to know it as not
_LEAST = 1e-12


def aggregate(kind: str, scores: Tensor, *, private: bool, labels: Tensor | None = None) -> Tensor:
    """One log-likelihood (without a claim: log-probability) for each image, float32 [B, K].

    Args:
        kind: plain, confidence, labels, learned or logits.
        scores: L_i, or log p_i without a claim, float [clients, B, K].
        private: the scores are of privatised answers.
        labels: the clients' released label histograms, int64 [clients, K]; kind labels.
    """
    scores = scores.double()
    if kind == "learned":
        out = _learned(scores)
    elif kind == "labels":
        assert labels is not None
        out = _by_labels(scores, labels.double().clamp_min(0), private)
    elif kind == "logits":
        out = scores.mean(0)
    else:
        out = _weighted(scores, private, confident=kind == "confidence")
    return (out if private else out.log_softmax(1)).float()


def _weighted(scores: Tensor, private: bool, *, confident: bool) -> Tensor:
    p = scores.softmax(2)
    weight = torch.ones_like(p[..., :1])
    if confident:
        entropy = -torch.special.xlogy(p, p).sum(2, keepdim=True)
        weight = (1 - entropy / math.log(p.shape[2])).clamp_min(1e-6)
    if private:  # evidence is shared out among the clients, not lessened as a whole
        return (weight / weight.mean(0) * scores).sum(0)
    return ((weight * p).sum(0) / weight.sum(0)).clamp_min(_LEAST).log()


def _by_labels(scores: Tensor, labels: Tensor, private: bool) -> Tensor:
    known = labels / (labels + _KNOWN)
    share = (labels + 1) / (labels + 1).sum(1, keepdim=True)
    if private:
        return _mixed(scores, _confusion(known, share)).sum(0)
    return (known[:, None] * scores.exp()).sum(0).div(known.sum(0) + _LEAST).clamp_min(_LEAST).log()


def _confusion(known: Tensor, share: Tensor) -> Tensor:
    """M[c, t] = k(c) [c = t] + (1 - k(c)) pi(t), float [clients, K, K]."""
    return torch.diag_embed(known) + (1 - known)[:, :, None] * share[:, None, :]


def _mixed(scores: Tensor, confusion: Tensor) -> Tensor:
    """Log sum_t M[c, t] exp L(t), float [clients, B, K]."""
    top = scores.amax(2, keepdim=True)
    return ((scores - top).exp() @ confusion.mT).clamp_min(_LEAST).log() + top


def _learned(scores: Tensor) -> Tensor:
    """EM over the true classes and each client's confusion matrix."""
    clients, rows, classes = scores.shape
    likelihood = (scores - scores.amax(2, keepdim=True)).exp()
    eye = torch.eye(classes, dtype=scores.dtype)
    confusion = (0.7 * eye + 0.3 / classes).expand(clients, -1, -1)
    truth = torch.zeros((rows, classes), dtype=scores.dtype)
    for _ in range(_ITERATIONS):
        share = truth.softmax(1).mean(0).clamp_min(1e-3)
        truth = _mixed(scores, confusion).sum(0) + share.log()
        belief = truth.softmax(1)
        mixed = (likelihood @ confusion.mT).clamp_min(_LEAST)
        counts = confusion * ((belief / mixed).mT @ likelihood)
        counts = counts + _PSEUDO * (eye + 1 / classes)
        confusion = counts / counts.sum(2, keepdim=True)
    return _mixed(scores, confusion).sum(0)
