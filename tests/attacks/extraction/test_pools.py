"""How many rows of a pool are read, and that attacks have no use for more."""

from types import SimpleNamespace

import pytest
import torch
from extraction_digits import holdings
from picture_data import SIZE, picture_folder, stay_on_disk
from torch import Tensor

from dpsd.attacks.extraction import rounds
from dpsd.attacks.extraction.pools import ground, load_pool
from dpsd.attacks.extraction.rounds import by_rounds, rows_used
from dpsd.config import Config
from dpsd.data import rows


@pytest.fixture
def config(tmp_path):
    """A run on 40 training and 24 test pictures: 4 are the holdout, and 16 are for the pool."""
    data = picture_folder(tmp_path, tests=12)
    return Config.model_validate({"data": data, "privacy": {"mechanism": "none"}})


@pytest.fixture
def read(monkeypatch):
    """How many pictures were decoded, one number for each batch."""
    counted, decode = list[int](), rows._decode

    def counting(images, numbers, pool):
        counted.append(len(numbers))
        return decode(images, numbers, pool)

    monkeypatch.setattr(rows, "_decode", counting)
    return counted


def test_of_rows_on_disk_no_more_are_read_than_are_held(config, read, monkeypatch):
    here = ground(config, 5, held=8)
    whole = ground(config, 5, held=100)
    assert len(whole.pool) == 16 and len(whole.measured) == 5
    stay_on_disk(monkeypatch)
    read.clear()
    there = ground(config, 5, held=8)
    assert sorted(read) == [5, 8]
    assert torch.equal(here.pool.images, there.pool.images)
    assert torch.equal(here.pool.labels, there.pool.labels)
    held = {image.numpy().tobytes() for image in here.pool.images}
    assert len(held) == 8 and held < {image.numpy().tobytes() for image in whole.pool.images}


def test_of_a_folder_no_more_are_read_than_are_held(config, read):
    folder = str(config.data.root / "train")
    assert load_pool(folder, config, None, 0, 0, held=7).images.shape == (7, 1, SIZE, SIZE)
    assert read == [7]
    assert len(load_pool(folder, config, None, 0, 0, held=99).images) == 40


def test_of_another_data_set_no_more_are_reshaped_than_are_held(config):
    assert load_pool("digits", config, None, 0, 0, held=9).images.shape == (9, 1, SIZE, SIZE)


@pytest.mark.parametrize("ladder", [(100, 300), (1_000, 5_000), (40_000,), (30, 31, 50_000)])
def test_attacks_that_choose_see_as_much_as_of_a_larger_pool(ladder, monkeypatch):
    few, many = (_looked_at(n, ladder, monkeypatch) for n in (rows_used(ladder[-1]), 150_000))
    assert few == many and max(few) >= 6_000


def _looked_at(pool: int, ladder: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Images that each round chooses from, where clones are not trained."""
    seen = list[int]()

    def candidates(clone: object, images: Tensor, *rest: object) -> Tensor:
        seen.append(len(images))
        return images

    clone = SimpleNamespace(model=None)
    monkeypatch.setattr(rounds, "candidates", candidates)
    monkeypatch.setattr(rounds, "learnt", lambda *_: clone)
    monkeypatch.setattr(rounds, "staged", lambda endpoint, held, ask, train: _stages(held, ask))
    images = torch.zeros(pool, 1, 1, 1, dtype=torch.uint8)
    list(by_rounds(SimpleNamespace(), holdings(*ladder, pool=images),
                   lambda images, count: torch.arange(count), "active"))  # fmt: skip
    return seen


def _stages(held, ask):
    """As `staged`, with a transcript that counts alone."""
    transcript = _Counting()
    for step in held.ladder:
        ask(transcript, step - transcript.asked)
        yield transcript


class _Counting:
    asked = 0

    def __len__(self) -> int:
        return self.asked

    def ask(self, endpoint: object, images: Tensor) -> None:
        self.asked += len(images)
