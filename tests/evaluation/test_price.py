"""The honest price of defences, against hand-made figures."""

import pytest
import torch

from dpsd.defences import Honey, Labels, TopK
from dpsd.errors import UserError
from dpsd.evaluation.price import honest_price, price_table

KEY = bytes(16)
P = torch.tensor([[0.6, 0.4, 0.0], [0.1, 0.9, 0.0], [0.5, 0.2, 0.3], [0.0, 0.05, 0.95]])
X = torch.zeros(4, 1, 2, 2, dtype=torch.uint8)
Y = torch.tensor([0, 1, 2, 2])


def test_figures_by_hand() -> None:
    found = honest_price(P, X, Y, [Honey(1.0)], key=KEY)  # rows 0 and 2 are swapped
    assert (found.accuracy_before, found.accuracy, found.flips) == (0.75, 0.75, 0.5)
    assert found.l1 == pytest.approx((0.4 + 0 + 0.4 + 0) / 4)
    assert found.ece_before == pytest.approx((0.4 + 0.1 + 0.5 + 0.05) / 4)
    assert found.ece == pytest.approx((0.6 + 0.1 + 0.5 + 0.05) / 4)


def test_several_count_together_and_none_costs_nothing() -> None:
    both = honest_price(P, X, Y, [Labels(), TopK(2)], key=KEY)
    assert both.defences == ("top_k:k=2", "labels")
    assert both.ece == pytest.approx(0.25) and both.l1 == pytest.approx((0.8 + 0.2 + 1 + 0.1) / 4)
    free = honest_price(P, X, Y, [], key=KEY)
    assert (free.flips, free.l1, free.accuracy) == (0, 0, free.accuracy_before)
    assert price_table([both, free]).text().count("\n") == 2


def test_no_rows_are_refused() -> None:
    with pytest.raises(UserError, match="0 labelled rows"):
        honest_price(P[:0], X[:0], Y[:0], [], key=KEY)
