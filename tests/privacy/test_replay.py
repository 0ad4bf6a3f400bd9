"""Releases that are kept, given again, and images that are counted."""

from collections import Counter

import numpy as np
import pytest
import torch
from oracles import KINDS, images, plan, prior, same

from dpsd.errors import UserError
from dpsd.privacy.budget import Asked
from dpsd.privacy.ledger import image_hashes
from dpsd.privacy.oracle import ReplayOracle


@pytest.mark.parametrize("kind", KINDS)
def test_recall_and_replay(make, tmp_path, kind):
    keep = tmp_path / "bank"
    keep.mkdir()
    oracle = make(keep=keep, **kind)
    batches = [images(5), images(3, seed=1)]
    given = [oracle.answer(x, prior) for x in batches]

    for position, x, answers in zip((0, 5), batches, given, strict=True):
        asked, kept = oracle.recall(position)
        assert torch.equal(asked, x)
        assert same(kept, answers)
    assert oracle.recall(8) is None
    assert make(**kind).recall(0) is None  # an oracle that keeps nothing

    replay = ReplayOracle(keep, plan(**kind))
    assert replay.fresh(batches[0]).all()
    for x, answers in zip(batches, given, strict=True):
        assert same(replay.answer(x, prior), answers)
    assert replay.position == 8
    assert not replay.fresh(batches[0]).any()
    with pytest.raises(UserError, match="no kept release at answer 8"):
        replay.answer(images(2, seed=4))


def test_replay_refuses_other_images(make, tmp_path):
    make(keep=tmp_path).answer(images(5), prior)
    with pytest.raises(UserError, match="other images"):
        ReplayOracle(tmp_path, plan()).answer(images(5, seed=1))


# ---------------------------------------------------------------- counting images


@pytest.mark.parametrize("seed", range(5))
def test_asked_counts_as_a_plain_counter_does(seed):
    rng = np.random.default_rng(seed)
    pool = image_hashes(images(200, seed=seed))
    asked, plain = Asked(), Counter()
    for _ in range(60):
        batch = pool[rng.integers(0, 200, rng.integers(1, 40))]
        np.testing.assert_array_equal(asked.counts(batch), [plain[h.tobytes()] for h in batch])
        if rng.random() < 0.8:
            asked.add(batch)
            plain.update(h.tobytes() for h in batch)
