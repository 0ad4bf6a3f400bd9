"""A bank in memory and one on disk hold the same, also in a sliding window."""

import pytest
import torch

from dpsd.errors import UserError
from dpsd.privacy.mechanisms.base import Answers
from dpsd.privacy.releases import keep_release
from dpsd.student import bank as banks
from dpsd.student.bank import Bank, MappedBank, open_bank

SHAPE, K = (1, 3, 4), 5


def batch(n, seed):
    rng = torch.Generator().manual_seed(seed)
    return torch.randint(256, (n, *SHAPE), generator=rng, dtype=torch.uint8), torch.randn(
        n, K, generator=rng
    )


def on_disk(folder, window):
    (folder / "bank").mkdir(exist_ok=True)
    return MappedBank(window, SHAPE, K, releases=folder / "bank", folder=folder / "window")


@pytest.mark.parametrize("window", [4, 10, 23, 100])
@pytest.mark.parametrize("kept", [True, False])
def test_a_bank_on_disk_holds_what_one_in_memory_does(tmp_path, window, kept):
    memory, disk, position = Bank(window, SHAPE, K), on_disk(tmp_path, window), 0
    for seed, n in enumerate((10, 7, 10, 0, 30, 1)):
        images, scores = batch(n, seed)
        if kept:  # two rows were held out, as in a run's last round
            more = torch.cat([images.new_zeros(2, *SHAPE), images])
            keep_release(tmp_path / "bank", position, more, Answers(torch.zeros(n + 2)))
        memory.add(images, scores)
        disk.add(images, scores, position if kept else None)
        position += n + 2
        assert len(memory) == len(disk) == min(window, disk.added)
        places = torch.arange(len(memory)).repeat(2).flip(0)
        for one, two in zip(memory.rows(places), disk.rows(places), strict=True):
            assert torch.equal(one, two)
        rng = [torch.Generator().manual_seed(9) for _ in range(2)]
        assert torch.equal(memory.schedule(n, 20, rng[0]), disk.schedule(n, 20, rng[1]))
    assert sum(len(p.images) for p in disk._parts) < window + 30  # the rest is let go of
    disk.close()
    assert not (tmp_path / "window").exists()


def test_images_of_kept_releases_are_not_stored_twice(tmp_path):
    disk, (images, scores) = on_disk(tmp_path, 50), batch(50, 0)
    keep_release(tmp_path / "bank", 0, images, Answers(torch.zeros(50)))
    disk.add(images, scores, 0)
    assert [(p.name, p.stat().st_size) for p in (tmp_path / "window").iterdir()] == [
        ("scores.float32", 50 * K * 4)
    ]
    assert (tmp_path / "window").stat().st_mode & 0o777 == 0o700


def test_a_bank_lies_on_disk_above_the_stated_size(tmp_path, monkeypatch):
    (tmp_path / "bank").mkdir()
    size = 30 * (12 + 4 * K)
    for most, kind in ((size, Bank), (size - 1, MappedBank)):
        monkeypatch.setattr(banks, "MAPPED_ABOVE", most)
        found = open_bank(30, SHAPE, K, releases=tmp_path / "bank", folder=tmp_path / "window")
        assert type(found) is kind


def test_a_full_disk_is_told_before_anything_is_asked(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(banks.os, "posix_fallocate", full)
    with pytest.raises(UserError, match=r"loop.window: .* scores do not fit into .*No space left"):
        on_disk(tmp_path, 10)


def test_what_a_stopped_process_left_is_removed(tmp_path):
    images, scores = batch(3, 0)
    on_disk(tmp_path, 10).add(images, scores)
    again = on_disk(tmp_path, 10)
    assert [p.name for p in (tmp_path / "window").iterdir()] == ["scores.float32"]
    again.add(images, scores)
    assert torch.equal(again.rows(torch.tensor([2]))[0], images[2:])


def lopsided():
    """Ninety answers that name class 0, nine class 1, one class 2; none class 3."""
    bank = Bank(100, (1, 2, 2), 4)
    named = torch.tensor([0] * 90 + [1] * 9 + [2])
    scores = torch.nn.functional.one_hot(named, 4).float()
    bank.add(torch.zeros(100, 1, 2, 2, dtype=torch.uint8), scores)
    return bank, named


def shares(balance):
    bank, named = lopsided()
    rng = torch.Generator().manual_seed(0)
    drawn = torch.cat([named[bank.balanced_pass(balance, rng)] for _ in range(200)])
    return drawn.bincount(minlength=4) / len(drawn)


def test_without_balance_a_pass_shows_each_row_once():
    bank, _ = lopsided()
    rng, same = (torch.Generator().manual_seed(0) for _ in range(2))
    places = bank.balanced_pass(0, rng)
    assert places.sort().values.tolist() == list(range(100))
    assert torch.equal(places, torch.randperm(100, generator=same))


@pytest.mark.parametrize("balance", [0.5, 1])
def test_rows_are_drawn_by_the_frequency_of_their_class(balance):
    weights = torch.tensor([90.0, 9, 1, 0]) ** (1 - balance)
    weights[3] = 0
    assert shares(balance) == pytest.approx((weights / weights.sum()).tolist(), abs=0.02)
