"""Each defence against what its source says it does."""

import math

import pytest
import torch
from scipy.stats import binom

from dpsd.defences import AccountMarks, Cosine, DpNoise, Honey, Inconsistency, Rounding, TopK
from dpsd.defences.account_marks import is_marked, mark_label
from dpsd.defences.cosine import waves

KEY = bytes(range(16))


def images(n: int, seed: int = 0) -> torch.Tensor:
    rng = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (n, 1, 8, 8), dtype=torch.uint8, generator=rng)


def spread(rows: list[list[float]]) -> torch.Tensor:
    return torch.tensor(rows, dtype=torch.float64)


def within(hits: int, n: int, rate: float) -> bool:
    low, high = binom.interval(1 - 1e-6, n, rate)
    return bool(low <= hits <= high)


def test_randomised_response_keeps_the_class_as_often_as_epsilon_says() -> None:
    p = spread([[0.1, 0.7, 0.2]]).expand(6_000, 3)
    named = DpNoise(1.0)(p, images(6_000), KEY, "a").argmax(1)
    assert within(int((named == 1).sum()), 6_000, math.e / (math.e + 2))
    assert within(int((named == 0).sum()), 6_000, 1 / (math.e + 2))
    confident = DpNoise(1.0)(p.round(), images(6_000), KEY, "b").argmax(1)
    assert torch.equal(named, confident)  # margins and accounts do not enter


def test_honey_swaps_below_the_threshold_of_log_margins() -> None:
    gap = math.exp(-1.0)  # second = first e^-1
    p = spread([[1, gap, 0], [1, gap**2, 0.0]])
    p = p / p.sum(1, keepdim=True)
    out = Honey(1.5)(p, images(2), KEY, "a")
    assert torch.equal(out[0], p[0, [1, 0, 2]]) and torch.equal(out[1], p[1])


def test_honey_is_for_its_accounts_alone() -> None:
    p, x = spread([[0.6, 0.4]]), images(1)
    some = Honey(1.5, frozenset({"mallory"}))
    assert torch.equal(some(p, x, KEY, "alice"), p)
    assert torch.equal(some(p, x, KEY, "mallory"), p.flip(1))


def test_inconsistency_deals_the_same_values_to_other_classes() -> None:
    p = spread([[0.05, 0.6, 0.2, 0.15]]).expand(3_000, 4)
    out = Inconsistency(moved=0)(p, images(3_000), KEY, "a")
    torch.testing.assert_close(out.sort().values, p.sort().values)
    assert bool((out[:, 1] == 0.6).all())
    assert within(int((out[:, 0] == 0.2).sum()), 3_000, 1 / 3)
    away = Inconsistency(moved=0.1)(p, images(3_000), KEY, "a")
    torch.testing.assert_close(away[:, 1], torch.full((3_000,), 0.5).double())
    assert bool((away[:, 1] > away[:, [0, 2, 3]].amax(1)).all())


def test_marks_can_be_said_again_from_key_account_and_image() -> None:
    p = torch.rand(4_000, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    p, x = p / p.sum(1, keepdim=True), images(4_000)
    out = AccountMarks(0.05)(p, x, KEY, "a")
    marked = is_marked(x, KEY, "a", 0.05)
    assert torch.equal((out != p).any(1), marked)
    assert within(int(marked.sum()), 4_000, 0.05)
    wrong = mark_label(x, KEY, "a", p.argmax(1), 5)
    assert torch.equal(out.argmax(1)[marked], wrong[marked])
    assert not bool((wrong == p.argmax(1)).any())
    step = (wrong - p.argmax(1)) % 5
    assert all(within(int((step == s).sum()), 4_000, 1 / 4) for s in range(1, 5))
    assert within(int((marked & is_marked(x, KEY, "b", 0.05)).sum()), 4_000, 0.05**2)


def test_waves_are_the_equation_for_each_class() -> None:
    p = spread([[0.7, 0.2, 0.1]]).expand(500, 3)
    x, amplitude, frequency = images(500), 0.05, 9.0
    drawn = waves(KEY, (1, 8, 8), 3)
    out = Cosine(amplitude, frequency)(p, x, KEY, "a")
    weights = drawn.directions / 64
    for i in (0, 7, 99):
        raised = []
        for c in range(3):
            place = float((x[i].flatten().double() / 255 * weights[c]).sum()) / 8
            signal = math.cos(frequency * place + float(drawn.phases[c]))
            raised.append(float(p[i, c]) + amplitude * (1 + signal) / 3)
        assert out[i].tolist() == pytest.approx([r / sum(raised) for r in raised])


def test_directions_are_smooth_and_differ_between_keys_and_classes() -> None:
    drawn = waves(KEY, (3, 28, 28), 20)
    steps = drawn.directions.view(20, 3, 28, 28).diff(dim=3)
    assert float(steps.abs().mean()) < 0.25 * 64
    mean, square = drawn.directions.mean(1), drawn.directions.pow(2).mean(1)
    assert float(mean.abs().max()) < 0.5 and float((square.sqrt() / 64 - 1).abs().max()) < 0.01
    assert len(drawn.directions.unique(dim=0)) == 16  # later classes share the first ones
    assert torch.equal(drawn.directions[16], drawn.directions[0])
    other = waves(KEY[::-1], (3, 28, 28), 20)
    assert not bool((drawn.phases == other.phases).any())


def test_rounding_keeps_the_class_where_all_round_to_nothing() -> None:
    p = torch.full((1, 500), 1 / 500, dtype=torch.float64)
    p[0, 77] += 1e-6
    out = Rounding(1)(p, images(1), KEY, "a")
    assert int(out.argmax()) == 77 and float(out.sum()) == pytest.approx(0.1)


def test_rounding_and_top_k_by_hand() -> None:
    p, x = spread([[0.334, 0.331, 0.335], [0.986, 0.01, 0.004]]), images(2)
    out = Rounding(2)(p, x, KEY, "a")
    expected = spread([[0.33, 0.33, 0.34], [0.99, 0.01, 0.0]])
    torch.testing.assert_close(out, expected)
    assert torch.equal(TopK(2)(p, x, KEY, "a"), spread([[0.334, 0, 0.335], [0.986, 0.01, 0]]))
