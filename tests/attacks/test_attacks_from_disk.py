"""Attacks on private rows that stay on disk: the same rows, or one line that refuses them."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from picture_data import SIZE, both_ways, picture_folder, stay_on_disk

from dpsd.attacks.audit.pairs import _changed
from dpsd.attacks.inversion.attack import _prior
from dpsd.attacks.inversion.judges import neighbours_judge, train_judges
from dpsd.attacks.inversion.memorisation import equal_pools
from dpsd.attacks.inversion.targets import accuracy
from dpsd.attacks.membership.game import logits_on, make_game
from dpsd.errors import UserError


@pytest.fixture
def both(tmp_path, monkeypatch):
    return both_ways(picture_folder(tmp_path, each=70, tests=5), monkeypatch)


def by_brightness(images):
    mean = images.float().mean((1, 2, 3))
    return torch.stack([120 - mean, mean - 120], 1)


def test_the_membership_game(both):
    here, there = (make_game(data, 2, shadows=2, seed=1) for data in both)
    assert torch.equal(here.rows.images, there.rows.images)
    assert torch.equal(here.population.images, there.population.images)
    assert torch.equal(here.rows.labels, there.rows.labels)
    logits = [logits_on(by_brightness, data.train.images) for data in both]
    assert np.array_equal(*logits)


@pytest.mark.parametrize("mislabelled", [True, False])
def test_a_replaced_record_of_an_audit(both, mislabelled):
    config = SimpleNamespace(facts=SimpleNamespace(classes=2))
    here, there = (
        _changed(config, data, 9, mislabelled=mislabelled, rng=np.random.default_rng(3))[0].train
        for data in both
    )
    assert torch.equal(here.images, there.images[:]) and torch.equal(here.labels, there.labels)
    before = both[0].train
    changed = (here.images != before.images).flatten(1).any(1) | (here.labels != before.labels)
    assert changed.nonzero().flatten().tolist() == [9]
    if not mislabelled:
        holdout = both[0].holdout
        place = (holdout.images == here.images[9]).flatten(1).all(1).nonzero()
        assert len(place) == 1 and holdout.labels[place.item()] == here.labels[9]


def test_pools_and_accuracy_of_an_inversion(both):
    here, there = (equal_pools(data, 4, seed=0) for data in both)
    assert torch.equal(here.train, there.train) and torch.equal(here.held, there.held)
    shares = [accuracy(lambda x: by_brightness(255 * x), data.test) for data in both]
    assert shares == [1.0, 1.0]


def test_judges_measure_rows_on_disk_and_refuse_to_learn_from_too_many(both, monkeypatch):
    here, there = (train_judges({"cnn"}, d.holdout, d.test, steps=40, seed=0) for d in both)
    for name in ("network_accuracy", "neighbours_accuracy", "both_accuracy"):
        assert getattr(here, name) == getattr(there, name) > 0.5
    stay_on_disk(monkeypatch)
    with pytest.raises(UserError, match=r"^data: 14 images .* and judge J2 needs them in memory"):
        neighbours_judge(both[1].holdout)


def test_priors_of_public_images_on_disk(both, monkeypatch):
    def prior(split):
        profile = SimpleNamespace(public=split, facts=SimpleNamespace(shape=(1, SIZE, SIZE)))
        return _prior(SimpleNamespace(budget=None, profile=profile,
                                      context=SimpleNamespace(run=None)),
                      "total_variation", None)  # fmt: skip

    made = [prior(data.holdout)[0](None) for data in both]
    assert type(made[0]) is type(made[1])
    stay_on_disk(monkeypatch)
    with pytest.raises(UserError, match="attack total_variation needs them in memory"):
        prior(both[1].holdout)
