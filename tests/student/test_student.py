"""The student's training: augmentation of answered images."""

import pytest
import torch

from dpsd.config import PublicFacts, parse_config
from dpsd.student.bank import Bank
from dpsd.student.student import Student

FACTS = PublicFacts((1, 8, 8), 3, ("a", "b", "c"))


def student(augment="none", smoothing=0.0, balance=0.0, soft_targets=False, micro_batch=None):
    config = parse_config(
        {
            "seed": 5,
            "data": {"name": "none", "shape": [1, 8, 8], "classes": 3},
            "student": {
                "model": "cnn-tiny",
                "augment": augment,
                "smoothing": smoothing,
                "balance": balance,
                "batch_size": 8,
                "micro_batch": micro_batch,
                "refit_epochs": 2,
            },
            "loop": {"rounds": 1},
            "privacy": {"epsilon": 1.0, "answers": 32},
        }
    )
    return Student(
        config, FACTS, rounds=1, queries_per_round=32, soft_targets=soft_targets,
        device=torch.device("cpu"), dtype=torch.float32,
    )  # fmt: skip


def filled():
    rng = torch.Generator().manual_seed(0)
    bank = Bank(32, FACTS.shape, 3)
    images = torch.randint(256, (32, 1, 8, 8), generator=rng, dtype=torch.uint8)
    bank.add(images, torch.randn(32, 3, generator=rng))
    return bank


def seen_in(learner, bank, monkeypatch):
    seen = []
    step = learner._step
    monkeypatch.setattr(learner, "_step", lambda x, *y: (seen.append(x.clone()), step(x, *y))[1])
    learner.refit(bank)
    return torch.cat(seen)


@pytest.mark.parametrize(
    ("at_once", "sizes"), [(2, [2, 2, 2, 2]), (3, [3, 3, 2]), (7, [4, 4]), (9, [8])]
)
@pytest.mark.parametrize("smoothing", [0.0, 0.5])
def test_the_gradients_of_micro_batches_add_up(smoothing, at_once, sizes, monkeypatch):
    """The network has no batch norm. No part of a batch of 8 has one image."""
    bank, seen = filled(), []
    whole, parts = (student(smoothing=smoothing, micro_batch=n) for n in (None, at_once))
    backward = parts._backward
    monkeypatch.setattr(parts, "_backward", lambda x, *y: (seen.append(len(x)), backward(x, *y))[1])
    first, second = (learner._train(bank, torch.arange(32)) for learner in (whole, parts))
    assert seen == 4 * sizes and second == pytest.approx(first, abs=1e-5)
    for one, other in zip(whole.model.parameters(), parts.model.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("answered", [1, 2, 9])
def test_no_step_has_one_row(answered, monkeypatch):
    """Batches have eight images. Batch normalisation cannot read one value a channel."""
    bank, sizes = Bank(32, FACTS.shape, 3), []
    bank.add(filled().images[:answered], torch.zeros(answered, 3))
    learner = student()
    learner.draws = 9
    step = learner._step
    monkeypatch.setattr(learner, "_step", lambda x, *y: (sizes.append(len(x)), step(x, *y))[1])
    learner.fit(bank, new=answered)
    learner.refit(bank)
    assert sizes == [7, 2] + {1: [], 2: [2, 2], 9: [7, 2, 7, 2]}[answered]


def test_an_odd_batch_has_no_part_of_one_row(monkeypatch):
    bank, seen, learner = filled(), [], student(micro_batch=2)
    backward = learner._backward
    monkeypatch.setattr(
        learner, "_backward", lambda x, *y: (seen.append(len(x)), backward(x, *y))[1]
    )
    learner._train(bank, torch.arange(7))
    assert seen == [3, 2, 2]


def test_without_augmentation_the_bank_is_seen_as_it_is(monkeypatch):
    bank = filled()
    seen = seen_in(student("none"), bank, monkeypatch)
    known = {bytes(x.numpy()) for x in bank.images}
    assert len(seen) == 64 and all(bytes(x.numpy()) in known for x in seen)


@pytest.mark.parametrize("augment", ["shift", "affine"])
def test_augmented_images_differ_from_pass_to_pass_and_follow_the_seed(augment, monkeypatch):
    bank = filled()
    before = bank.images.clone()
    seen = seen_in(student(augment), bank, monkeypatch)
    assert len({bytes(x.numpy()) for x in seen}) > 48  # of 64: warped anew in each pass
    assert torch.equal(bank.images, before)
    assert torch.equal(seen, seen_in(student(augment), filled(), monkeypatch))


def test_smoothing_fades_over_the_first_half_of_the_steps():
    learner = student(smoothing=0.4)
    weights = []
    for step in range(5):
        learner.steps = step
        weights.append(learner._smoothing())
    assert learner.steps_total == 4 and weights == pytest.approx([0.4, 0.2, 0, 0, 0])


def test_smoothing_gives_a_gradient_to_a_class_that_was_given_up():
    """The likelihood's own is in proportion to what the student believes of the class."""
    images, scores = torch.zeros(8, 1, 8, 8, dtype=torch.uint8), torch.zeros(8, 3)
    scores[:, 2] = 2.0  # the answers favour class 2
    pull = []
    for smoothing in (0.0, 0.3):
        learner = student(smoothing=smoothing)
        with torch.no_grad():
            learner.model.head.bias.copy_(torch.tensor([12.0, 12.0, -12.0]))
        learner._step(images, scores, 8)
        pull.append(-float(learner.model.head.bias.grad[2]))
    assert 0 < pull[0] < 1e-3 and pull[1] == pytest.approx(0.1, rel=0.01)


def test_balance_reads_answers_that_name_no_class_with_the_student(monkeypatch):
    """Yes to {0, 1} or {1, 2}; the student holds 2 or 1 for likeliest; an answer that names 0."""
    learner = student(balance=1.0)
    scores = torch.tensor([[1.0, 1, 0], [1, 1, 0], [0, 1, 1], [0, 1, 1], [4, 0, 0]])
    bank = Bank(5, FACTS.shape, 3)
    bank.add(torch.arange(5, dtype=torch.uint8)[:, None, None, None].expand(5, 1, 8, 8), scores)
    beliefs = torch.tensor([[0.1, 0.2, 0.7], [0.5, 0.4, 0.1], [0.2, 0.1, 0.7], [0.2, 0.5, 0.3],
                            [0.1, 0.5, 0.4]])  # fmt: skip
    monkeypatch.setattr(learner, "predict", lambda x: beliefs[x[:, 0, 0, 0].long()])
    # (0.1 e, 0.2 e, 0.7), (0.5 e, ...), (0.2, 0.1 e, 0.7 e), (0.2, 0.5 e, 0.3 e), (0.1 e^4, ...).
    assert learner._classes(bank).tolist() == [2, 0, 2, 1, 0]
    assert torch.equal(bank.scores, scores)
    assert student()._classes(bank) is None


def test_the_figures_of_a_round_are_those_of_its_batches_one_by_one(monkeypatch):
    """Batches of 8, 8, 8 and 8; two of the 32 answers name no class."""
    learner, bank = student("shift"), filled()
    bank.scores[:2] = torch.tensor([1.0, 1.0, 0.0])
    kept, step = [], learner._step

    def watched(images, scores, batch):
        loss, logits = step(images, scores, batch)
        kept.append((float(loss), logits.double(), scores.double()))
        return loss, logits

    monkeypatch.setattr(learner, "_step", watched)
    figures = learner.fit(bank, new=32)
    assert len(kept) == 4
    logits, scores = (torch.cat([row[i] for row in kept]) for i in (1, 2))
    assert figures["loss"] == pytest.approx(sum(row[0] for row in kept) / 4)
    p, likelihood = logits.softmax(1), scores.exp()
    gain = ((p * likelihood).sum(1) / likelihood.mean(1)).log()
    assert figures["gain_nats_per_answer"] == pytest.approx(float(gain.mean()), rel=1e-4)
    named = [i for i in range(32) if scores[i].tolist().count(float(scores[i].max())) == 1]
    hits = sum(int(logits[i].argmax()) == int(scores[i].argmax()) for i in named)
    assert len(named) == 30 and figures["agreement_with_answers"] == hits / 30


def test_balance_reads_noisy_answers_with_the_student_and_soft_ones_alone(monkeypatch):
    """Labels under Gaussian noise of deviation 4 name the true class in about half of the cases."""
    rng = torch.Generator().manual_seed(1)
    truth = torch.arange(3).repeat(200)
    noisy = torch.nn.functional.one_hot(truth, 3) + 4 * torch.randn(600, 3, generator=rng)
    scores = noisy / 4**2  # the log-likelihood of each class, up to a constant
    bank = Bank(600, FACTS.shape, 3)
    bank.add(torch.zeros(600, 1, 8, 8, dtype=torch.uint8), scores)
    beliefs = 0.05 + 0.85 * torch.nn.functional.one_hot(truth, 3)
    parts = iter(beliefs.split(512))
    monkeypatch.setattr(Student, "predict", lambda self, x: next(parts))
    found = student(balance=1.0)._classes(bank)
    assert (scores.argmax(1) == truth).double().mean() < 0.6
    assert torch.equal(found, (scores.exp() * beliefs).argmax(1))
    assert (found == truth).double().mean() > 0.95
    assert torch.equal(student(balance=1.0, soft_targets=True)._classes(bank), scores.argmax(1))
