"""The student's training: augmentation of answered images."""

import pytest
import torch

from dpsd.config import parse_config
from dpsd.data import PublicFacts
from dpsd.generator.bank import Bank
from dpsd.student import Student

FACTS = PublicFacts((1, 8, 8), 3, ("a", "b", "c"))


def student(augment="none", committee=1):
    config = parse_config(
        {
            "seed": 5,
            "data": {"name": "none", "shape": [1, 8, 8], "classes": 3},
            "student": {
                "model": "cnn-tiny",
                "augment": augment,
                "committee": committee,
                "batch_size": 8,
                "refit_epochs": 2,
            },
            "loop": {"rounds": 1},
            "privacy": {"epsilon": 1.0, "answers": 32},
        }
    )
    return Student(
        config, FACTS, rounds=1, queries_per_round=32, soft_targets=False,
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
    monkeypatch.setattr(learner, "_step", lambda x, y: (seen.append(x.clone()), step(x, y))[1])
    learner.refit(bank)
    return torch.cat(seen)


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


def test_a_committee_of_three_is_followed_by_one_that_learns_their_mean_prediction():
    bank, alone, released = filled(), student(), student(committee=3)
    alone.refit(bank)
    released.refit(bank)
    assert len(released.committee) == 3
    for mine, first in zip(
        released.committee[0].parameters(), alone.average.parameters(), strict=True
    ):
        assert torch.equal(mine, first)  # the first member is the student without a committee
    assert all(released.average is not member for member in released.committee)

    pixels = torch.rand(4, 1, 8, 8)
    said = torch.stack([member(pixels).softmax(1) for member in released.committee])
    torch.testing.assert_close(released._believed(pixels), said.mean(0))


def test_the_last_of_a_committee_never_sees_the_answers_themselves(monkeypatch):
    learner, heard = student(committee=2), []
    loss = learner.loss
    monkeypatch.setattr(learner, "loss", lambda x, y: (heard.append(len(x)), loss(x, y))[1])
    learner.refit(filled())
    assert sum(heard) == 2 * 64  # two members make two passes over 32 answers
