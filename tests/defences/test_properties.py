"""What every defence promises, on random answers and questions."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dpsd.defences import DEFENCES, Defence, answered, parse_defence

KEY, OTHER = bytes(range(16)), bytes(range(1, 17))
DEFAULTS = [parse_defence(name) for name in DEFENCES]
_EXTREME = """noise:size=2 inconsistency:moved=0.5 cosine:amplitude=1 rounding:digits=1
account_marks:share=0.9 honey:threshold=50 dp_noise:epsilon=0.1 top_k:k=1"""
EXTREMES = [parse_defence(text) for text in _EXTREME.split()]
SUMS_TO_ONE = [d for d in DEFAULTS + EXTREMES if d.name not in ("top_k", "rounding")]


def asked(seed: int, n: int, classes: int, sharpness: float) -> tuple[Tensor, Tensor]:
    """Probabilities float64 [n, classes] and images; some rows have ties, some are certain."""
    rng = torch.Generator().manual_seed(seed)
    logits = sharpness * torch.randn(n, classes, generator=rng, dtype=torch.float64)
    p = logits.softmax(1)
    p[0] = 1 / classes
    p[-1] = torch.eye(classes, dtype=torch.float64)[seed % classes]
    return p, torch.randint(0, 256, (n, 1, 5, 5), dtype=torch.uint8, generator=rng)


questions = st.builds(
    asked, st.integers(0, 2**30), st.integers(1, 12), st.integers(2, 12),
    st.sampled_from([0.01, 1.0, 5.0, 60.0]),
)  # fmt: skip
every = st.sampled_from(DEFAULTS + EXTREMES)
quick = settings(max_examples=40, derandomize=True, deadline=None, database=None)


@quick
@given(every, questions)
def test_answers_are_the_same_again_one_by_one_and_in_a_batch(
    defence: Defence, question: tuple[Tensor, Tensor]
) -> None:
    p, x = question
    answers = defence(p, x, KEY, "a")
    assert torch.equal(answers, defence(p, x, KEY, "a"))
    alone = [defence(p[i : i + 1], x[i : i + 1], KEY, "a") for i in range(len(p))]
    assert torch.equal(answers, torch.cat(alone))
    assert torch.equal(answers.flip(0), defence(p.flip(0), x.flip(0), KEY, "a"))


@quick
@given(every, questions)
def test_answers_are_probabilities(defence: Defence, question: tuple[Tensor, Tensor]) -> None:
    p, x = question
    before = p.clone()
    answers = defence(p, x, KEY, "a")
    assert answers.dtype == torch.float64 and answers.shape == p.shape
    assert torch.equal(p, before)
    assert bool((answers >= 0).all()) and bool((answers <= 1 + 1e-12).all())
    if defence in SUMS_TO_ONE:
        torch.testing.assert_close(answers.sum(1), torch.ones(len(p)).double(), rtol=0, atol=1e-9)
    if defence.hides_probabilities:
        assert set(answers.unique().tolist()) <= {0.0, 1.0}


@quick
@given(every, questions)
def test_the_likeliest_class_stays_where_it_is_promised(
    defence: Defence, question: tuple[Tensor, Tensor]
) -> None:
    p, x = question
    if defence.keeps_top1:
        assert torch.equal(defence(p, x, KEY, "a").argmax(1), p.argmax(1))


def test_all_but_the_promised_change_the_class_of_some() -> None:
    p, x = asked(1, 400, 10, 1.0)
    for defence in EXTREMES:
        changed = bool((defence(p, x, KEY, "a").argmax(1) != p.argmax(1)).any())
        assert changed != defence.keeps_top1, defence.name


@pytest.mark.parametrize("name", ["dp_noise", "inconsistency", "account_marks", "cosine", "noise"])
def test_another_key_gives_other_answers(name: str) -> None:
    p, x = asked(2, 600, 10, 1.0)
    defence = DEFENCES[name]()
    assert not torch.equal(defence(p, x, KEY, "a"), defence(p, x, OTHER, "a"))


def test_accounts_matter_to_two_defences_alone() -> None:
    p, x = asked(3, 600, 10, 1.0)
    differ = {d.name for d in DEFAULTS if not torch.equal(d(p, x, KEY, "a"), d(p, x, KEY, "b"))}
    assert differ == {"inconsistency", "account_marks"}


@quick
@given(st.floats(0.001, 2), questions)
def test_noise_is_bounded_in_l1(size: float, question: tuple[Tensor, Tensor]) -> None:
    p, x = question
    noisy = parse_defence(f"noise:size={size}")(p, x, KEY, "a")
    assert bool(((noisy - p).abs().sum(1) <= size + 1e-12).all())


def test_noise_uses_its_bound_where_the_class_is_certain() -> None:
    p, x = asked(4, 50, 10, 60.0)
    certain = p.amax(1) > 0.999
    noisy = parse_defence("noise:size=0.3")(p, x, KEY, "a")
    distance = (noisy - p).abs().sum(1)[certain]
    torch.testing.assert_close(distance, torch.full_like(distance, 0.3))


def test_all_together_keep_their_promises() -> None:
    p, x = asked(5, 60, 10, 2.0)
    answers = answered(p, x, DEFAULTS, KEY, "a")
    assert torch.equal(answers.sum(1), torch.ones(60).double())  # labels come last
    assert torch.equal(answers, answered(p, x, DEFAULTS[::-1], KEY, "a"))
