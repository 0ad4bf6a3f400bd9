"""Accuracy, agreement and calibration of a teacher and a student."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from dpsd.data.load import Split
from dpsd.device import rows_at_once
from dpsd.privacy.plan import make_plan
from dpsd.privacy.releases import load_release
from dpsd.runs.folder import Run
from dpsd.student.losses import answer_gain, names_a_class
from dpsd.teachers.folder import as_logits

_BINS = 15
MOST_CONFUSED = 20
"""Classes of which a matrix of confusions is kept; with more it is unreadable."""
WITH_TEACHER = "the teacher's class on the same rows"
WITH_ANSWERS = (
    "the most likely class of held-out paid answers, privatised and so noisy: the first of the "
    "last round, to synthetic images, never trained on"
)
WITH_NOTHING = (
    "nothing: no held-out paid answer makes one class likelier than all others; see the gain"
)


def on_rows(
    rows: Split,
    class_names: Sequence[str],
    ask: Callable[[Tensor], Tensor],
    predict: Callable[[Tensor], Tensor],
) -> dict[str, Any]:
    """Accuracy, agreement and calibration of teacher and student on labelled rows.

    Args:
        rows: B images and labels.
        class_names: K names.
        ask: uint8 images [b, C, H, W] -> the teacher's logits or votes [b, K].
        predict: uint8 images [b, C, H, W] -> the student's probabilities [b, K].
    """
    y = rows.labels
    both = [(as_logits(ask(x).cpu()), predict(x)) for x in _batches(rows)]
    answers = torch.cat([answer for answer, _ in both]).softmax(1)
    predictions = torch.cat([prediction for _, prediction in both])
    t, s = answers.argmax(1), predictions.argmax(1)

    def share(hits: Tensor) -> float | None:
        return float(hits.double().mean()) if len(hits) else None

    return {
        "rows": len(rows),
        "agreement_with": WITH_TEACHER,
        "teacher": {"accuracy": share(t == y), "ece": _ece(answers, y)},
        "student": {
            "accuracy": share(s == y),
            "agreement": share(s == t),
            "ece": _ece(predictions, y),
        },
        "per_class": [
            {
                "class": name,
                "rows": int((y == c).sum()),
                "teacher": share(t[y == c] == c),
                "student": share(s[y == c] == c),
            }
            for c, name in enumerate(class_names)
        ],
        "reliability": {
            "teacher": _reliability(answers, y),
            "student": _reliability(predictions, y),
        },
        "confusion": _confusion(y, s, len(class_names)),
    }


def accuracy(predict: Callable[[Tensor], Tensor], rows: Split) -> float | None:
    """Share of the labelled rows whose class is the most probable one; None without rows."""
    hits = [predict(x).argmax(1) for x in _batches(rows)]
    return float((torch.cat(hits) == rows.labels).double().mean()) if len(rows) else None


def _batches(rows: Split) -> Iterable[Tensor]:
    """The images in batches that a network takes at a time."""
    return rows.images.split(rows_at_once(tuple(rows.images.shape[1:])))


def without_rows(run: Run, predict: Callable[[Tensor], Tensor]) -> dict[str, Any]:
    """Agreement with the paid answers that were held out of training; no new answer is asked."""
    plan = make_plan(run.config)
    last, n = (plan.rounds - 1) * plan.queries_per_round, plan.held_out
    agreement = gain = None
    if n and last in {int(path.stem) for path in run.bank.glob("*.safetensors")}:
        images, answers = load_release(run.bank, last)
        scores = plan.mechanism.log_likelihood(answers)[:n]
        predictions, named = predict(images[:n]), names_a_class(scores)
        if named.any():
            hits = predictions.argmax(1)[named] == scores.argmax(1)[named]
            agreement = float(hits.double().mean())
        gain = float(answer_gain(predictions.clamp_min(1e-12).log(), scores).double().mean())
    return {
        "rows": n if gain is not None else 0,
        "agreement_with": WITH_NOTHING if agreement is None else WITH_ANSWERS,
        "teacher": {"accuracy": None, "ece": None},
        "student": {
            "accuracy": None,
            "agreement": agreement,
            "ece": None,
            "gain_nats_per_answer": gain,
        },
        "per_class": [],
        "reliability": {"teacher": [], "student": []},
        "confusion": [],
    }


def expected_calibration_error(probabilities: Tensor, labels: Tensor, bins: int = _BINS) -> float:
    """Mean gap of confidence and accuracy over bins of equal width (Guo et al. 2017, equation 3).

    Args:
        probabilities: float [B, K].
        labels: int64 [B].
        bins: number of bins; a confidence c falls into bin ceil(c * bins).

    Returns:
        From 0 to 1.
    """
    _, confidence, hits = _bins(probabilities, labels, bins)
    return float((confidence - hits).abs().sum() / len(labels))


def _bins(probabilities: Tensor, labels: Tensor, bins: int) -> tuple[Tensor, Tensor, Tensor]:
    """Rows, sum of confidences and hits in each bin of confidence, float64 [bins] each."""
    confidence, predicted = probabilities.double().max(1)
    place = (confidence * bins).ceil().long().clamp(1, bins) - 1
    hit = (predicted == labels).double()
    zero = torch.zeros(bins, dtype=torch.float64)
    n, total, hits = (zero.index_add(0, place, x) for x in (torch.ones_like(hit), confidence, hit))
    return n, total, hits


def _reliability(probabilities: Tensor, labels: Tensor) -> list[dict[str, Any]]:
    """Mean confidence, accuracy and rows of each bin that holds rows, for a calibration diagram."""
    bins = zip(*(x.tolist() for x in _bins(probabilities, labels, _BINS)), strict=True)
    return [{"confidence": c / n, "accuracy": h / n, "rows": int(n)} for n, c, h in bins if n]


def _confusion(labels: Tensor, predicted: Tensor, classes: int) -> list[list[int]]:
    """Rows of class i that the student takes for class j; empty where classes are many."""
    if classes > MOST_CONFUSED:
        return []
    counts = torch.bincount(labels * classes + predicted, minlength=classes * classes)
    found: list[list[int]] = counts.view(classes, classes).tolist()
    return found


def _ece(probabilities: Tensor, labels: Tensor) -> float | None:
    return expected_calibration_error(probabilities, labels) if len(labels) else None
