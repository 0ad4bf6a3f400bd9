import pytest
import torch

from dpsd.config import parse_config, public_facts
from dpsd.config.sections import DataConfig
from dpsd.generator import photographs as module
from dpsd.generator.photographs import AUGMENTATIONS, Photographs
from dpsd.generator.synthesizer import Synthesizer


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def picture(height, width, seed=0):
    return torch.randint(0, 256, (3, height, width), generator=seeded(seed), dtype=torch.uint8)


def ramp(height=200, width=300):
    """Red grows along a row, green down a column."""
    red = torch.linspace(0, 255, width).expand(height, width)
    green = torch.linspace(0, 255, height)[:, None].expand(height, width)
    return torch.stack([red, green, torch.zeros(height, width)]).round().to(torch.uint8)


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32), (2, 17, 23), (3, 60, 8)])
def test_shape_dtype_and_seed(shape):
    photographs = Photographs([picture(40, 90), picture(130, 70)], shape)
    images = photographs.draw(48, seeded())
    assert images.shape == (48, *shape)
    assert images.dtype == torch.uint8
    assert torch.equal(images, photographs.draw(48, seeded()))
    assert not torch.equal(images, photographs.draw(48, seeded(1)))
    assert len(images.flatten(1).unique(dim=0)) == 48


def test_randomness_comes_from_the_generator_alone():
    before = torch.get_rng_state()
    Photographs([picture(40, 50)], (3, 32, 32)).draw(8, seeded())
    assert torch.equal(before, torch.get_rng_state())


def test_without_augmentation_crops_are_as_large_as_fits():
    images = Photographs([ramp()], (3, 32, 32), ()).draw(64, seeded()).float()
    # The full height, so green runs from 0 to 255 in each; two thirds of the width at any place.
    assert images[:, 1, 0].max() < 10
    assert images[:, 1, -1].min() > 245
    wide = images[:, 0, :, -1].mean(1) - images[:, 0, :, 0].mean(1)
    assert wide.sub(255 * 2 / 3 * 31 / 32).abs().max() < 6
    assert images[:, 0].mean((1, 2)).std() > 10


def test_crops_are_of_all_sizes():
    images = Photographs([ramp()], (3, 32, 32), ["scale"]).draw(400, seeded()).float()
    shown = (images[:, 1, -1].mean(1) - images[:, 1, 0].mean(1)) / (255 * 31 / 32)  # of the height
    assert shown.min() == pytest.approx(24 / 200, abs=0.02)
    assert shown.max() == pytest.approx(1, abs=0.02)
    assert shown.median() == pytest.approx((24 / 200) ** 0.5, abs=0.05)  # log-uniform


def test_a_small_crop_is_cut_out_of_the_large_copy():
    """A board of single pixels stays sharp where a crop shows 24 pixels, and greys out in all."""
    board = (torch.arange(256)[:, None] + torch.arange(256)) % 2 * 255
    images = Photographs([board.to(torch.uint8).expand(3, -1, -1)], (3, 24, 24), ["scale"])
    spread = images.draw(200, seeded()).float().std((1, 2, 3))
    assert spread.max() > 40
    assert spread.min() < 1


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_each_augmentation_changes_images(name):
    photographs = [ramp(), picture(80, 60)]
    plain = Photographs(photographs, (3, 32, 32), ()).draw(32, seeded())
    varied = Photographs(photographs, (3, 32, 32), [name]).draw(32, seeded())
    assert (plain != varied).flatten(1).any(1).float().mean() > 0.3


def test_flips_mirror_left_and_right_alone():
    images = Photographs([ramp()], (3, 32, 32), ["flip"]).draw(200, seeded()).float()
    rightwards = images[:, 0, :, -1].mean(1) > images[:, 0, :, 0].mean(1)
    assert 0.3 < rightwards.float().mean() < 0.7
    assert (images[:, 1, -1].mean(1) > images[:, 1, 0].mean(1)).all()


def test_pasted_parts_come_from_another_photograph():
    black, white = torch.zeros(3, 64, 64).byte(), torch.full((3, 64, 64), 255).byte()
    images = Photographs([black, white], (3, 32, 32), ["paste"]).draw(400, seeded())
    both = (images.amax((1, 2, 3)) > 250) & (images.amin((1, 2, 3)) < 5)
    assert 0.1 < both.float().mean() < 0.5  # half get a part, and half of the parts differ


def test_grey_images_are_mixtures_of_the_colours():
    red = torch.zeros(3, 64, 64).byte()
    red[0] = 255
    levels = Photographs([red], (1, 32, 32), ["colour"]).draw(200, seeded()).float().mean((1, 2, 3))
    assert levels.std() > 20


def config(**generator):
    return parse_config({"seed": 3, "privacy": {"epsilon": 1}, "generator": generator})


def synthesizer(**generator):
    facts = public_facts(DataConfig(name="cifar10_jpeg"))
    return Synthesizer(config(**generator), facts, torch.device("cpu"))


def test_the_mix_takes_its_share_of_photographs():
    mixed = synthesizer(shares={"spectra": 0.5, "photographs": 0.5}).sample(64, None, round=2)
    alone = synthesizer(shares={"photographs": 1}).sample(64, None, round=2)
    assert mixed.shape == alone.shape == (64, 3, 32, 32)
    again = synthesizer(shares={"photographs": 1}).sample(64, None, round=2)
    assert torch.equal(alone, again)  # a round has its own stream
    assert not torch.equal(alone, synthesizer(shares={"photographs": 1}).sample(64, None, round=3))


def test_an_augmented_folder_does_not_run_dry(tmp_path):
    from PIL import Image

    for i in range(3):
        Image.fromarray(picture(50, 40, i).permute(1, 2, 0).numpy()).save(tmp_path / f"{i}.png")
    images = synthesizer(kind="images", source=str(tmp_path), augment=["scale", "flip"])
    assert len(images.sample(300, None).flatten(1).unique(dim=0)) == 300


@pytest.mark.parametrize(
    "sizes",
    [
        [(50, 50)] * 19 + [(40, 2000)],  # a panorama, which makes every strip wide
        [(300, 400)] * 12,
        [(24, 2000), (2000, 24)],
        [(30_000, 24)],
    ],
)
def test_the_atlas_keeps_to_its_bound(sizes, monkeypatch):
    free = Photographs([picture(*size) for size in sizes], (3, 32, 32))._atlas
    assert module.atlas_bytes(sizes, (3, 32, 32)) == 4 * free.numel() > 2**20
    monkeypatch.setattr(module, "ATLAS_BYTES", 2**20)
    made = Photographs([picture(*size) for size in sizes], (3, 32, 32))
    assert 2**18 < 4 * made._atlas.numel() == module.atlas_bytes(sizes, (3, 32, 32)) <= 2**20
    assert made._sides.min() >= 24
    assert made.draw(8, seeded()).shape == (8, 3, 32, 32)


def test_a_wide_photograph_is_shrunk_and_then_cut_to_its_middle(monkeypatch):
    monkeypatch.setattr(module, "ATLAS_BYTES", 2**20)
    small = module._fitted([picture(50, 50)] * 19 + [ramp(48, 2000)], 32)
    assert all(torch.equal(p, picture(50, 50)) for p in small[:19])
    height, width = small[19].shape[1:]
    assert height == 24 and 50 < width < 1000  # of 24 x 1000 after shrinking by two
    red = small[19][0].float().mean(0)
    middle, shown = 127.5, 255 * width / 1000
    assert red[0] == pytest.approx(middle - shown / 2, abs=2)
    assert red[-1] == pytest.approx(middle + shown / 2, abs=2)
