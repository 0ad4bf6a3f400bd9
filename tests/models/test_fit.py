"""The one training loop: steps, passes, targets, and its early end."""

import pytest
import torch
from picture_data import SIZE, both_ways, picture_folder
from torch import nn

from dpsd.models.fit import FitRecipe, fit, in_batches

IMAGES = torch.cat([torch.zeros(20, 1, 4, 4), torch.full((20, 1, 4, 4), 255)]).to(torch.uint8)
LABELS = torch.arange(40) // 20


def trained(labels=LABELS, steps=60, **more):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 2))
    fit(model, IMAGES, labels, FitRecipe(steps, batch_size=16, lr=0.05, augment="none"), **more)
    return model


def probabilities(model):
    with torch.no_grad():
        return model(IMAGES.float() / 255).softmax(1)


def test_a_classifier_learns_and_is_left_for_evaluation():
    model = trained()
    assert torch.equal(probabilities(model).argmax(1), LABELS) and not model.training
    assert all(
        torch.equal(p, q) for p, q in zip(model.parameters(), trained().parameters(), strict=True)
    )


@pytest.mark.parametrize(
    ("rows", "size", "sizes"),
    [(8, 4, [4, 4]), (9, 4, [4, 3, 2]), (10, 4, [4, 4, 2]), (4, 3, [2, 2]), (3, 2, [3]),
     (5, 2, [2, 3]), (1, 4, [1])],
)  # fmt: skip
def test_no_last_batch_of_many_has_one_row(rows, size, sizes):
    batches = in_batches(torch.arange(rows), size)
    assert [len(batch) for batch in batches] == sizes
    assert torch.equal(torch.cat(batches), torch.arange(rows))


def test_batch_norm_on_maps_of_one_pixel_reads_every_batch():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    recipe = FitRecipe(6, batch_size=13, lr=0.05, augment="none")  # 40 rows are three and one
    fit(model, IMAGES, LABELS, recipe)
    assert probabilities(model.eval()).isfinite().all()


def test_passes_see_every_row_once_and_the_last_may_be_cut_short():
    lines, seen = [], []

    def even(x):
        seen.append(len(x))
        return torch.full((len(x), 2), 0.5)

    trained(even, steps=7, say=lines.append)
    assert seen == [16, 16, 8, 16, 16, 8, 16]
    assert [line.split(" loss ")[0] for line in lines] == ["epoch 1/3", "epoch 2/3"]


def test_a_function_gives_the_probabilities_to_learn():
    def of_brightness(x):
        bright = x.mean((1, 2, 3))
        return torch.stack([0.7 - 0.4 * bright, 0.3 + 0.4 * bright], 1)

    learned = probabilities(trained(of_brightness, steps=300))[:, 0]
    assert learned[0] == pytest.approx(0.7, abs=0.03) and learned[-1] == pytest.approx(
        0.3, abs=0.03
    )


def test_the_first_step_is_that_of_the_formula():
    """The first step of Adam moves each weight by the learning rate, one 25th of the largest."""
    torch.manual_seed(0)
    before = nn.Linear(16, 2).weight.detach().clone()
    after = trained(steps=10, stop=lambda step: step == 1)[1].weight
    moved = (after - before * (1 - 0.05 / 25 * 1e-2)).abs()
    torch.testing.assert_close(moved, torch.full_like(moved, 0.05 / 25), rtol=1e-3, atol=0)


def test_stop_ends_the_training_between_steps():
    done = []
    trained(steps=50, stop=lambda step: done.append(step) or step == 5)
    assert done == [1, 2, 3, 4, 5]


def test_a_fit_from_disk_is_a_fit_from_memory_bit_for_bit(tmp_path, monkeypatch):
    """The rows come in the same order, also where the augmentation draws between two passes."""
    memory, disk = both_ways(picture_folder(tmp_path), monkeypatch)
    states, orders = [], []
    for data in (memory, disk):
        torch.manual_seed(3)
        model = nn.Sequential(nn.Flatten(), nn.Linear(SIZE * SIZE, 2), nn.Dropout(0.5))
        seen = []
        fit(
            model, data.train.images, data.train.labels,
            FitRecipe(8, batch_size=16, lr=0.05, augment="shift-flip"),
            say=seen.append, stop=lambda step: step == 7,
        )  # fmt: skip
        states.append(model[1].weight.detach())
        orders.append(seen)
    assert torch.equal(*states) and orders[0] == orders[1] and len(orders[0]) == 2
