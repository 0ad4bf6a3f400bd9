"""Augmentation: each image by its own random numbers, against slices made by hand."""

import pytest
import torch

from dpsd.models.augment import DRAWS, affine, augment

IMAGES = torch.randint(
    1, 256, (6, 3, 14, 28), generator=torch.Generator().manual_seed(0), dtype=torch.uint8
)


def test_shifts_and_flips_are_those_of_slices():
    """14 rows reach 1 pixel, so thirds of a number; 28 columns reach 2, so fifths."""
    draws = torch.zeros(6, DRAWS)
    draws[:, 0] = torch.tensor([0.1, 0.5, 0.9, 0.1, 0.5, 0.9])
    draws[:, 1] = torch.tensor([0.5, 0.1, 0.99, 0.5, 0.5, 0.3])
    draws[:, 2] = torch.tensor([0.4, 0.6, 0.4, 0.6, 0.4, 0.6])
    offsets = [(-1, 0), (0, -2), (1, 2), (-1, 0), (0, 0), (1, -1)]
    for kind in ("shift", "shift-flip"):
        changed = augment(IMAGES, kind, draws)
        for image, out, (down, right), u in zip(IMAGES, changed, offsets, draws[:, 2], strict=True):
            wanted = torch.zeros_like(image)
            for row in range(14):
                for column in range(28):
                    if 0 <= row + down < 14 and 0 <= column + right < 28:
                        wanted[:, row, column] = image[:, row + down, column + right]
            assert torch.equal(out, wanted.flip(2) if kind == "shift-flip" and u < 0.5 else wanted)


@pytest.mark.parametrize("kind", ["none", "shift", "shift-flip", "affine"])
def test_without_draws_the_global_generator_decides(kind):
    changed = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        changed.append(augment(IMAGES, kind))
    assert changed[0].dtype == torch.uint8 and changed[0].shape == IMAGES.shape
    assert torch.equal(changed[0], changed[1])
    assert torch.equal(changed[0], changed[2]) == (kind == "none")


@pytest.mark.parametrize("kind", ["none", "shift", "shift-flip", "affine"])
def test_images_are_changed_on_the_device_that_they_are_on(kind):
    """Random numbers come from the processor; `meta` stands for a GPU."""
    images = IMAGES.to("meta")
    for draws in (None, torch.rand(6, DRAWS)):
        changed = augment(images, kind, draws)
        assert changed.device.type == "meta"
        assert (changed.shape, changed.dtype) == (IMAGES.shape, torch.uint8)


def test_draws_of_one_half_leave_an_image_as_it_is():
    assert torch.equal(augment(IMAGES, "affine", torch.full((6, DRAWS), 0.5)), IMAGES)


def test_a_quarter_turn_of_a_square_is_a_transpose():
    x = torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    zero, one = torch.zeros(2), torch.ones(2)
    turned = affine(
        x, turn=one * torch.pi / 2, wide=one, high=one, shear=zero, right=zero, down=zero
    )
    assert torch.allclose(turned, x.rot90(1, (2, 3)), atol=1e-5)
    mirrored = affine(x, turn=zero, wide=-one, high=one, shear=zero, right=zero, down=zero)
    assert torch.allclose(mirrored, x.flip(3), atol=1e-5)
