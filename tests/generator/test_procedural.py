import pytest
import torch

from dpsd.errors import UserError
from dpsd.generator import procedural as module
from dpsd.generator.procedural import FAMILIES, procedural


def draw(family, n=64, shape=(1, 28, 28), seed=0):
    return procedural(family, n, shape, torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32), (1, 17, 23), (3, 8, 8), (3, 23, 17)])
def test_shape_dtype_and_seed(family, shape):
    images = draw(family, shape=shape)
    assert images.shape == (64, *shape)
    assert images.dtype == torch.uint8
    assert torch.equal(images, draw(family, shape=shape))
    assert not torch.equal(images, draw(family, shape=shape, seed=1))


@pytest.mark.parametrize("family", FAMILIES)
def test_randomness_comes_from_the_generator_alone(family):
    torch.manual_seed(0)
    before = torch.get_rng_state()
    first = draw(family)
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(1)
    assert torch.equal(first, draw(family))


@pytest.mark.parametrize("family", FAMILIES)
def test_family_function_is_the_same_stream(family):
    images = getattr(module, family)(64, (1, 28, 28), torch.Generator().manual_seed(0))
    assert torch.equal(images, draw(family))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("channels", [1, 3])
def test_images_are_distinct_and_not_constant(family, channels):
    images = draw(family, 2000, (channels, 28, 28)).flatten(1)
    assert len(images.unique(dim=0)) > 0.99 * len(images)
    spread = images.amax(1).int() - images.amin(1).int()
    assert (spread > 25).float().mean() > 0.95


@pytest.mark.parametrize("family", FAMILIES)
def test_mean_intensity_varies(family):
    means = draw(family, 2000).float().mean((1, 2, 3)) / 255
    assert means.std() > (0.04 if family == "strokes" else 0.12)
    assert 0.05 < means.mean() < 0.7


@pytest.mark.parametrize("family", FAMILIES)
def test_floats_are_finite(family):
    # The undecorated function returns the floats, where NaN would still be visible.
    floats = getattr(module, family).__wrapped__(2000, (3, 20, 28), torch.Generator())
    assert floats.isfinite().all()


def test_strokes_are_bright_lines_on_a_dark_background():
    images = draw("strokes", 2000).float().flatten(1) / 255
    assert (images.median(1).values < 0.2).float().mean() > 0.9
    assert (images.amax(1) > 0.4).float().mean() > 0.99
    covered = (images > 0.4).float().mean(1)
    assert covered.quantile(0.1) < 0.06
    assert covered.quantile(0.9) > 0.15


def test_spectra_power_falls_with_frequency():
    images = draw("spectra", 2000, (1, 32, 32)).float()[:, 0]
    # The periodic transform leaks at the borders; a Hann window removes that.
    window = torch.hann_window(32)
    centred = images - images.mean((1, 2), keepdim=True)
    power = torch.fft.fft2(centred * window * window[:, None]).abs().square().mean(0)
    f = torch.fft.fftfreq(32) * 32
    radius = torch.hypot(f, f[:, None])
    bands = torch.stack([power[(radius >= r) & (radius < 1.6 * r)].mean() for r in (2, 4, 6, 10)])
    assert (bands.diff() < 0).all()


def test_half_of_the_blobs_are_mirror_symmetric():
    images = draw("blobs", 2000).int()
    error = (images - images.flip(3)).abs().amax((1, 2, 3))
    assert 0.45 < (error <= 1).float().mean() < 0.6


def test_chunks_join_and_large_images_work():
    assert draw("leaves", 7, (3, 224, 224)).flatten(1).unique(dim=0).shape[0] == 7
    assert draw("strokes", 5000, (1, 8, 8)).flatten(1).float().std(1).gt(0).float().mean() > 0.99
    assert draw("blobs", 0).shape == (0, 1, 28, 28)


def test_errors_name_the_value():
    with pytest.raises(UserError, match=r"'glyphs'.*strokes.*leaves"):
        draw("glyphs")
    with pytest.raises(UserError, match="-1"):
        draw("blobs", -1)
    with pytest.raises(UserError, match=r"\(28, 28\)"):
        draw("spectra", 1, (28, 28))
    with pytest.raises(UserError, match="H, W >= 4"):
        draw("strokes", 1, (1, 2, 28))
