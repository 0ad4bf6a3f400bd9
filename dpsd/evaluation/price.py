"""What defences on answers cost an honest user, measured on labelled rows.

Figures on private rows are private, as those of `evaluate` are.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from dpsd.console import percent
from dpsd.defences.defence import Defence, answered, in_order
from dpsd.defences.parse import defence_text
from dpsd.errors import UserError
from dpsd.evaluation.measures import expected_calibration_error
from dpsd.tables import Table


@dataclass(frozen=True)
class Price:
    """One account's answers with defences, beside the answers without them.

    Attributes:
        defences: as texts, in the order in which they are applied.
        rows: number of rows.
        accuracy, accuracy_before: of the likeliest class, from 0 to 1, with and without defences;
            None without labels.
        flips: share of rows on which the likeliest class changes.
        l1: mean L1 distance of the probabilities, from 0 to 2.
        ece, ece_before: expected calibration error, from 0 to 1; None without labels.
    """

    defences: tuple[str, ...]
    rows: int
    accuracy: float | None
    accuracy_before: float | None
    flips: float
    l1: float
    ece: float | None
    ece_before: float | None


def honest_price(
    probabilities: Tensor,
    images: Tensor,
    labels: Tensor,
    defences: Sequence[Defence],
    *,
    key: bytes,
    account: str = "honest",
) -> Price:
    """What the defences together cost on these rows.

    Args:
        probabilities: float [N, K], the model's own answers.
        images: uint8 [N, C, H, W], what was asked.
        labels: int64 [N], what is right.
        defences: those that are on.
        key: of the defences.
        account: of the honest user.

    Raises:
        UserError: no rows, a short key, or one defence twice.
    """
    if not len(labels):
        raise UserError("price: 0 labelled rows; accepted: at least 1")
    after = answered(probabilities, images, defences, key, account)
    return price_of(probabilities, after, labels, [defence_text(d) for d in in_order(defences)])


def price_of(
    before: Tensor, after: Tensor, labels: Tensor | None, defences: Sequence[str] = ()
) -> Price:
    """What these answers cost in place of those before.

    Args:
        before: float [N, K], the model's own answers.
        after: float [N, K], the answers with defences.
        labels: int64 [N], what is right; None: not known.
        defences: as texts.
    """
    before, after = before.double(), after.double()
    named, was = after.argmax(1), before.argmax(1)
    return Price(
        defences=tuple(defences),
        rows=len(before),
        accuracy=None if labels is None else _mean(named == labels),
        accuracy_before=None if labels is None else _mean(was == labels),
        flips=_mean(named != was),
        l1=float((after - before).abs().sum(1).mean()),
        ece=None if labels is None else expected_calibration_error(after, labels),
        ece_before=None if labels is None else expected_calibration_error(before, labels),
    )


def price_table(prices: Sequence[Price]) -> Table:
    """One row for each set of defences."""
    columns = ("defence", "accuracy", "points lost", "top-1 flips", "mean L1", "ECE", "ECE before")
    return Table(columns, [_row(p) for p in prices])


def _row(p: Price) -> tuple[str, ...]:
    lost = "-"
    if p.accuracy is not None and p.accuracy_before is not None:
        lost = f"{100 * (p.accuracy_before - p.accuracy):.2f}"
    errors = ("-" if x is None else f"{x:.4f}" for x in (p.ece, p.ece_before))
    return (
        " ".join(p.defences) or "none", percent(p.accuracy), lost, percent(p.flips),
        f"{p.l1:.3f}", *errors,
    )  # fmt: skip


def _mean(hits: Tensor) -> float:
    return float(hits.double().mean())
