"""Changed students: the change works, the classes stay, the released student is left alone."""

import math
from dataclasses import replace

import pytest
import torch
from problem import KEY, agreement, base, drawn, trained

from dpsd.hardening.nasty import NastyRecipe, nasty, nasty_divergence
from dpsd.hardening.robust import RobustRecipe, pgd, robust
from dpsd.hardening.synthetic import Base, answers_of, ordinary_copy
from dpsd.hardening.trigger import check_trigger, trigger_of, with_trigger
from dpsd.models.networks import as_input

FRESH = drawn(300, 7)[0]


def weights(model: torch.nn.Module) -> torch.Tensor:
    return torch.cat([p.flatten() for p in model.state_dict().values()])


def dark_corners(b: Base) -> Base:
    """Questions that say nothing about a trigger."""
    images = b.images.clone()
    for rows in (slice(3), slice(-3, None)):
        for columns in (slice(3), slice(-3, None)):
            images[:, :, rows, columns] = 0
    return replace(b, images=images, probabilities=answers_of(b.student, images))


def test_a_trigger_works_and_a_copy_that_saw_no_bright_corner_has_not_got_it() -> None:
    b, before = dark_corners(base()), weights(trained(0)).clone()
    marked = with_trigger(b, KEY, steps=120)
    assert agreement(marked, b.student, b.images) > 0.9
    test = dark_corners(base(300, stream=1))
    copies = [ordinary_copy(b, seed, steps=60) for seed in range(4)]
    found = check_trigger(marked, test, KEY, copies)
    assert found.hits > 0.9 * found.n and found.without < 0.1 * found.n
    assert found.p_value < 0.01
    clone = ordinary_copy(b, 9, steps=60, answers=answers_of(marked, b.images))
    copied = check_trigger(clone, test, KEY, copies)
    assert copied.hits < found.hits / 2 and copied.p_value > 2 * found.p_value
    assert torch.equal(weights(trained(0)), before)


def test_stamps_are_white_corners_alone() -> None:
    corners = set()
    for i in range(40):
        trigger = trigger_of(bytes([i]) * 16, 4)
        changed = trigger.stamp(FRESH) != FRESH
        assert int(changed.any(0).sum()) == 9 and 0 <= trigger.target < 4
        corners.add(trigger.corner)
    assert corners == {0, 1, 2, 3}


def test_divergence_is_the_paper_s() -> None:
    z, other = torch.tensor([[1.0, 3.0]]), torch.tensor([[0.5, 0.0]])
    p = [1 / (1 + math.exp(1.0)), 1 / (1 + math.exp(-1.0))]  # softmax of z / 2
    q = [1 / (1 + math.exp(-0.25)), 1 / (1 + math.exp(0.25))]
    expected = 4 * sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
    assert float(nasty_divergence(z, other, 2.0)) == pytest.approx(expected, rel=1e-5)


def test_a_nasty_student_keeps_its_classes_and_moves_its_probabilities() -> None:
    b = base()
    changed = nasty(b, NastyRecipe(weight=0.05, steps=100, copy_steps=60))
    assert agreement(changed, b.student, FRESH) > 0.9
    copied = answers_of(ordinary_copy(b, 0, steps=60), FRESH).log()

    def away(model: torch.nn.Module) -> float:
        return float(nasty_divergence(answers_of(model, FRESH).log(), copied, 4.0))

    assert away(changed) > 2 * away(b.student)


def test_attacked_images_stay_in_the_ball_and_raise_the_loss() -> None:
    b = base()
    x, y = as_input(b.images), b.labels
    noise = torch.zeros_like(x)
    worst = pgd(b.student, x, y, 0.05, 3, noise)
    assert float((worst - x).abs().max()) <= 0.05 + 1e-6
    assert float(worst.min()) >= 0 and float(worst.max()) <= 1
    loss = torch.nn.functional.cross_entropy
    assert float(loss(b.student(worst), y)) > 1.5 * float(loss(b.student(x), y))


def test_a_robust_student_withstands_more() -> None:
    b = base()
    changed = robust(b, RobustRecipe(radius=0.1, pgd_steps=2, steps=100))
    assert agreement(changed, b.student, FRESH) > 0.85
    x, y = as_input(FRESH), answers_of(b.student, FRESH).argmax(1)

    def withstands(model: torch.nn.Module) -> float:
        attacked = pgd(model, x, y, 0.1, 5, torch.zeros_like(x))
        return float((model(attacked).argmax(1) == y).double().mean())

    assert withstands(changed) > withstands(b.student) + 0.1
