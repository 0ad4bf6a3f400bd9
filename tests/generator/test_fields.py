"""Images of untrained networks: seeded, new, varied, and in range."""

import pytest
import torch

from dpsd.generator.fields import FieldGenerator, fresh, untrained
from dpsd.generator.procedural import procedural

CPU = torch.device("cpu")


def draw(n=256, shape=(1, 28, 28), seed=0):
    return untrained(n, shape, 64, torch.Generator().manual_seed(seed), CPU)


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32), (1, 17, 23), (3, 8, 8), (2, 4, 70)])
def test_shape_range_and_seed(shape):
    images = draw(shape=shape)
    assert images.shape == (256, *shape) and images.dtype == torch.uint8
    assert images.amin() < 5 and images.amax() > 200
    assert torch.equal(images, draw(shape=shape))
    assert not torch.equal(images, draw(shape=shape, seed=1))


def test_randomness_comes_from_the_generator_alone():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    first = draw()
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(1)
    assert torch.equal(first, draw())


def distance(images):
    """Mean distance of two images, relative to their mean length."""
    return float(torch.pdist(images).mean() / images.norm(dim=1).mean())


def test_images_differ_as_much_as_strokes_do_and_none_is_blank():
    images = draw(512).float().flatten(1) / 255
    drawn = procedural("strokes", 512, (1, 28, 28), torch.Generator().manual_seed(0))
    strokes = drawn.float().flatten(1) / 255
    assert len(images.unique(dim=0)) == 512
    assert (images.amax(1) - images.amin(1) > 0.2).float().mean() > 0.98
    assert distance(images) > 0.7 * distance(strokes)  # 0 for a collapsed network


def test_weights_are_drawn_anew_for_every_128_images():
    images, rng = draw(), torch.Generator().manual_seed(0)
    for part in images.split(128):
        model = fresh(64, (1, 28, 28), int(torch.randint(2**62, (1,), generator=rng)))
        with torch.no_grad():
            expected = model(torch.randn(128, 64, generator=rng)) * 255
        assert (part - expected).abs().amax() <= 0.51


def test_an_image_does_not_depend_on_its_batch():
    model = FieldGenerator(16, (3, 20, 28))
    z = torch.randn(5, 16, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(model(z)[2:3], model(z[2:3]), atol=1e-5, rtol=1e-4)


def test_the_latent_vector_and_every_weight_have_a_gradient():
    model = fresh(16, (1, 28, 28), 0)
    z = torch.randn(8, 16, generator=torch.Generator().manual_seed(0)).requires_grad_()
    model(z).square().mean().backward()
    for tensor in (z, *model.parameters()):
        assert (
            tensor.grad is not None and tensor.grad.isfinite().all() and tensor.grad.abs().max() > 0
        )


def test_constants_are_not_released():
    state = fresh(16, (1, 28, 28), 0).state_dict()
    assert {name.split(".")[0] for name in state} == {"maps", "knobs", "body", "fields"}
