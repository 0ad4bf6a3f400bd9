import math

import pytest
import torch
from oracles import (
    GAUSSIAN,
    GRADIENT,
    KINDS,
    PLAIN,
    SEEDED,
    SHAPE,
    K,
    Teacher,
    images,
    plan,
    prior,
    same,
)

from dpsd.errors import BudgetError, UserError
from dpsd.privacy.ledger import image_hashes

# ---------------------------------------------------------------- budget and refusal


def test_refuses_above_the_cap_before_the_teacher_is_asked(make):
    teacher = Teacher()
    oracle = make(teacher, answers=10)
    oracle.answer(images(7), prior)
    with pytest.raises(BudgetError, match="cap of 10"):
        oracle.answer(images(4, seed=1), prior)
    assert (teacher.calls, oracle.position, make.ledger().charged("r")) == (1, 7, 7)
    assert oracle.fresh(images(4, seed=1)).all()  # nor counted as asked
    oracle.answer(images(3, seed=2), prior)
    assert make.ledger().charged("r") == 10


def test_the_cap_holds_after_a_restart(make):
    make(answers=10).answer(images(7), prior)
    again = make(answers=10)
    assert again.position == 7
    with pytest.raises(BudgetError):
        again.answer(images(4, seed=1), prior)
    with pytest.raises(BudgetError, match="asked 2 times"):
        again.answer(images(7)[:1], prior)


@pytest.mark.parametrize(
    "bad",
    [
        torch.zeros(2, 1, 3, 4, dtype=torch.uint8),
        torch.zeros(2, 3, 3, 3, dtype=torch.uint8),
        torch.zeros(1, 3, 3, dtype=torch.uint8),
        torch.zeros(2, *SHAPE),
        torch.zeros(2, *SHAPE, dtype=torch.int64),
    ],
)
def test_refuses_a_wrong_shape_or_type(make, bad):
    teacher = Teacher()
    with pytest.raises(UserError, match=r"accepted: torch\.uint8"):
        make(teacher).answer(bad, prior)
    assert teacher.calls == 0
    assert make.ledger().charged("r") == 0


def test_refuses_a_missing_prior(make):
    teacher = Teacher()
    with pytest.raises(UserError, match="student"):
        make(teacher).answer(images(2))
    assert (teacher.calls, make.ledger().charged("r")) == (0, 0)


@pytest.mark.parametrize("within_one_batch", [True, False])
def test_an_image_is_asked_as_often_as_the_plan_says(make, within_one_batch):
    x = images(3)
    batches = [torch.cat([x, x])] if within_one_batch else [x, x]
    teacher = Teacher()
    once = make(teacher, folder="once", asks_per_image=1)
    with pytest.raises(BudgetError, match="asked 2 times"):
        for batch in batches:
            once.answer(batch, prior)
    assert make.ledger("once").charged("r") == 3 * (len(batches) - 1)

    twice = make(folder="twice", asks_per_image=2)
    for batch in batches:
        twice.answer(batch, prior)
    assert make.ledger("twice").charged("r") == 6
    assert not twice.fresh(x).any()
    with pytest.raises(BudgetError, match="asked 3 times"):
        twice.answer(x[:1], prior)


def test_fresh_counts_copies_within_the_batch(make):
    x = images(2)
    oracle = make(asks_per_image=2)
    oracle.answer(x[:1], prior)
    assert oracle.fresh(x[[0, 0, 1, 1, 1]]).tolist() == [True, False, True, True, False]


@pytest.mark.parametrize("kind", [PLAIN, GAUSSIAN, GRADIENT])
@pytest.mark.parametrize("asks", [1, 2, 5])
def test_all_asks_of_an_image_together_cost_the_configured_epsilon(kind, asks):
    p = plan(asks_per_image=asks, epsilon=1.5, **kind)
    assert p.unit_epsilon(p.delta) == pytest.approx(1.5, abs=1e-3)
    assert p.unit_epsilon(p.delta) <= 1.5 + 1e-9
    one = plan(epsilon=1.5, **kind).mechanism.event
    event = p.mechanism.event
    if kind is PLAIN:
        assert event.epsilon == pytest.approx(one.epsilon / asks)
        assert p.unit_epsilon(0) == pytest.approx(1.5)
    else:
        assert event.mu == pytest.approx(one.mu / math.sqrt(asks))
        assert p.unit_epsilon(p.delta) == pytest.approx(1.5, abs=1e-8)


# ---------------------------------------------------------------- paid before asked


def test_charge_is_durable_before_the_teacher_is_called(make):
    seen = []

    def crash(x, logits):
        seen.append((make.ledger().charged("r"), make.ledger().hashes("r").tolist()))
        raise RuntimeError("crash")

    with pytest.raises(RuntimeError, match="crash"):
        make(Teacher(crash)).answer(images(3), prior)
    assert seen == [(3, image_hashes(images(3)).tolist())]
    again = make()
    assert again.position == 3
    assert not again.fresh(images(3)).any()


def test_another_process_on_the_same_run_is_refused(make):
    first, second = make(), make()
    first.answer(images(2), prior)
    with pytest.raises(UserError, match="another process"):
        second.answer(images(2, seed=1), prior)


# ---------------------------------------------------------------- a teacher that fails


def broken(value, one_logit=False, dtype=torch.float32):
    def rows(x, logits):
        logits = logits.to(dtype)
        bad = torch.arange(len(x)) % 3 == 0
        logits[bad, : 1 if one_logit else K] = value
        return logits

    return rows


def uniform(x, logits):
    logits[torch.arange(len(x)) % 3 == 0] = 0.0
    return logits


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("one_logit", [True, False])
def test_broken_rows_answer_as_a_teacher_that_knows_nothing(make, kind, value, one_logit):
    options = kind | SEEDED
    x = images(30)
    found = make(Teacher(broken(value, one_logit)), folder="a", **options).answer(x, prior)
    expected = make(Teacher(uniform), folder="b", **options).answer(x, prior)
    assert found.values.isfinite().all()
    assert same(found, expected)
    whole = make(folder="c", **options).answer(x, prior)
    good = torch.arange(30) % 3 != 0
    assert torch.equal(found.values[good], whole.values[good])


@pytest.mark.parametrize("value", [1e300, -1e300])
def test_logits_that_overflow_float32_are_broken_rows(make, value):
    teacher = Teacher(broken(value, one_logit=True, dtype=torch.float64))
    found = make(teacher, folder="a", **GAUSSIAN, **SEEDED).answer(images(30), prior)
    expected = make(Teacher(uniform), folder="b", **GAUSSIAN, **SEEDED).answer(images(30), prior)
    assert same(found, expected)


# ---------------------------------------------------------------- noise, batches, replay


@pytest.mark.parametrize("kind", KINDS[:-1])
def test_default_noise_is_fresh_and_seeded_noise_repeats(make, kind):
    x = images(60)

    def answers(folder, **more):
        return make(folder=folder, **kind, **more).answer(x, prior)

    assert not torch.equal(answers("a").values, answers("b").values)
    assert same(answers("c", **SEEDED), answers("d", **SEEDED))
    assert not torch.equal(
        answers("e", **SEEDED).values,
        make(folder="f", seed=1, **kind, **SEEDED).answer(x, prior).values,
    )


def test_the_seed_is_ignored_without_its_flag(make):
    x = images(60)
    first = make(folder="a", seed=3, **GAUSSIAN).answer(x)
    assert not torch.equal(first.values, make(folder="b", seed=3, **GAUSSIAN).answer(x).values)


def test_seeded_noise_depends_on_the_position(make):
    oracle = make(**GAUSSIAN, **SEEDED, asks_per_image=2)
    x = images(5)
    assert not torch.equal(oracle.answer(x).values, oracle.answer(x).values)
    # Resumed at position 5, the stream is that of position 5, not the first one again.
    whole = make(folder="b", **GAUSSIAN, **SEEDED)
    whole.answer(x)
    expected = whole.answer(images(5, seed=1))
    make(folder="c", **GAUSSIAN, **SEEDED).answer(x)
    resumed = make(folder="c", **GAUSSIAN, **SEEDED)
    assert same(resumed.answer(images(5, seed=1)), expected)


@pytest.mark.parametrize("batch", [1, 7, 100])
def test_teacher_batches_do_not_matter(make, batch):
    teacher = Teacher()
    found = make(teacher, batch=batch, **GAUSSIAN, **SEEDED).answer(images(30))
    assert same(found, make(folder="b", **GAUSSIAN, **SEEDED).answer(images(30)))
    assert teacher.calls == math.ceil(30 / batch)


def test_teacher_is_called_without_gradient(make):
    def check(x, logits):
        assert torch.is_inference_mode_enabled()
        return logits

    make(Teacher(check)).answer(images(2), prior)


def test_answers_to_no_images(make):
    oracle = make()
    assert oracle.fresh(images(0)).shape == (0,)
    assert len(oracle.answer(images(0), prior)) == 0
