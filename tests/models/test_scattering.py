"""The scattering transform against formulas, another library's figures, and its invariances."""

import math

import pytest
import torch

from dpsd.errors import UserError
from dpsd.models.networks import build_model
from dpsd.models.scattering import MAPS, filter_bank, scattering_features, scattering_maps

CPU = torch.device("cpu")


def _image(height=28, width=28):
    i, j = torch.arange(height)[:, None], torch.arange(width)
    return ((7 * i * i + 3 * i * j + 13 * j) % 256).to(torch.uint8)[None, None]


def _response(psi, frequency):
    """|sum_u psi(u) exp(-i w u)| of the 8 wavelets of a scale."""
    reach = psi.shape[-1] // 2
    place = torch.arange(reach, -reach - 1, -1).double()
    wavelets = torch.complex(psi[:8, 0].double(), psi[8:, 0].double())
    phase = frequency[0] * place[:, None] + frequency[1] * place
    return (wavelets * torch.polar(torch.ones_like(phase), -phase)).sum((1, 2)).abs()


# Coefficients of `_image()` from kymatio 0.3.0: Scattering2D(J=2, shape=(28, 28), L=8).
KYMATIO = {
    (0, 0, 0): 0.150091, (0, 3, 5): 0.530471,
    (1, 0, 0): 0.017631, (1, 3, 5): 0.051106,
    (6, 0, 0): 0.017662, (6, 3, 5): 0.084666,
    (9, 0, 0): 0.030647, (9, 3, 5): 0.044429,
    (14, 0, 0): 0.028629, (14, 3, 5): 0.072935,
    (17, 0, 0): 0.002404, (17, 3, 5): 0.009960,
    (40, 0, 0): 0.003833, (40, 3, 5): 0.001237,
    (80, 0, 0): 0.000536, (80, 3, 5): 0.011044,
}  # fmt: skip


def test_coefficients_are_those_of_kymatio():
    maps = scattering_maps(_image().float() / 255)[0]
    for place, value in KYMATIO.items():
        assert float(maps[place]) == pytest.approx(value, abs=1e-4)
    assert float(maps.sum()) == pytest.approx(72.2386, rel=1e-3)
    assert float(maps.square().sum()) == pytest.approx(13.66994, rel=1e-3)


@pytest.mark.parametrize("scale", [0, 1])
def test_wavelets_have_mean_zero_and_the_spectrum_of_the_formula(scale):
    psi = getattr(filter_bank(28, 28, CPU), f"psi{scale}")
    sigma, xi = 0.8 * 2**scale, 0.75 * math.pi / 2**scale
    assert _response(psi, (0.0, 0.0)).max() < 1e-6
    beta = math.exp(-((sigma * xi) ** 2) / 2)
    for t in range(8):
        angle = (3 - t) * math.pi / 8
        for shift in (0.0, 0.1, -0.2):  # along the wave, around its own frequency
            w = xi + shift
            gauss = math.exp(-((sigma * shift) ** 2) / 2)
            expected = gauss - beta * math.exp(-((sigma * w) ** 2) / 2)
            found = _response(psi, (w * math.cos(angle), w * math.sin(angle)))[t]
            assert float(found) == pytest.approx(expected, abs=0.02)


def test_littlewood_paley_sum_is_bounded():
    """|phi|^2 + (|psi(w)|^2 + |psi(-w)|^2) / 2 summed: no frequency is amplified, few are lost."""
    bank = filter_bank(28, 28, CPU)
    sums = []
    for i in range(-8, 9):
        for j in range(-8, 9):
            w = (i * math.pi / 8, j * math.pi / 8)
            low = math.exp(-(1.6**2) * (w[0] ** 2 + w[1] ** 2))
            both = [_response(p, w).square().sum() + _response(p, (-w[0], -w[1])).square().sum()
                    for p in (bank.psi0, bank.psi1)]  # fmt: skip
            sums.append((low + float(sum(both)) / 2, math.hypot(*w)))
    assert max(s for s, _ in sums) <= 1.01
    assert min(s for s, radius in sums if radius < 0.85 * math.pi) > 0.25


def test_energy_never_grows(tiny_images):
    """Non-expansive, in the norm in which a coefficient stands for 16 pixels."""
    x, y = tiny_images[:8].float() / 255, tiny_images[8:].float() / 255
    apart = (scattering_maps(x) - scattering_maps(y)).square().sum((1, 2, 3)) * 16
    assert (apart <= (x - y).square().sum((1, 2, 3)) * 1.01).all()


def test_constant_image_has_only_order_zero():
    maps = scattering_maps(torch.full((1, 1, 28, 28), 0.6))
    torch.testing.assert_close(maps[:, 0], torch.full((1, 7, 7), 0.6), atol=1e-5, rtol=0)
    assert maps[:, 1:].abs().max() < 1e-6


def test_plane_wave_lights_its_own_orientation():
    """Centre of a wave along the rows with the coarse wavelet's frequency: S1 = |psi| / 2."""
    rows = torch.arange(64)[:, None].double()
    wave = (0.5 + 0.5 * torch.cos(0.375 * math.pi * rows)).expand(64, 64)[None, None]
    centre = scattering_maps(wave.float())[0, :, 6:10, 6:10].mean((1, 2))
    beta = math.exp(-((0.8 * 0.75 * math.pi) ** 2) / 2)
    first = centre[9:17]
    assert float(first[3]) == pytest.approx(0.25 * (1 - beta**2), rel=0.01)
    assert int(first.argmax()) == 3
    assert float(centre[0]) == pytest.approx(0.5, abs=0.01)


def test_shift_by_the_stride_shifts_the_maps():
    image = torch.zeros(1, 1, 40, 40, dtype=torch.uint8)
    image[..., 12:24, 12:24] = _image(12, 12)
    moved = image.roll((4, 8), (2, 3))
    maps, after = (scattering_maps(x.float() / 255) for x in (image, moved))
    torch.testing.assert_close(after[..., 1:, 2:], maps[..., :-1, :-2], atol=1e-6, rtol=0)


def test_transposed_image_gives_transposed_maps_of_mirrored_orientations():
    maps = scattering_maps(_image().float() / 255)[0]
    turned = scattering_maps(_image().float().mT / 255)[0]
    # Angle (3 - t) pi / 8 becomes pi / 2 less itself, modulo pi: t becomes 2 - t modulo 8.
    order = (2 - torch.arange(8)) % 8
    for start in (1, 9):
        torch.testing.assert_close(turned[start + order].mT, maps[start : start + 8])
    second, other = maps[17:].view(8, 8, 7, 7), turned[17:].view(8, 8, 7, 7)
    torch.testing.assert_close(other[order][:, order].mT, second)


@pytest.mark.parametrize(
    ("shape", "expected"), [((2, 1, 28, 28), (81, 7, 7)), ((1, 3, 32, 36), (243, 8, 9)),
                            ((1, 1, 8, 10), (81, 2, 2))]
)  # fmt: skip
def test_shapes_and_independence_of_the_batch(shape, expected):
    images = torch.randint(0, 256, shape, dtype=torch.uint8)
    features = scattering_features(images)
    assert features.shape == (shape[0], math.prod(expected)) and features.dtype == torch.float32
    maps = scattering_maps(images.float() / 255)
    assert maps.shape == (shape[0], *expected) and maps.shape[1] == shape[1] * MAPS
    torch.testing.assert_close(features[:1], scattering_features(images[:1]), atol=1e-6, rtol=0)
    each = torch.cat([scattering_maps(images[:, c : c + 1].float() / 255)
                      for c in range(shape[1])], 1)  # fmt: skip
    torch.testing.assert_close(maps, each, atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    "images", [torch.zeros(1, 1, 28, 28), torch.zeros(1, 1, 4, 28, dtype=torch.uint8)]
)
def test_bad_images_are_refused(images):
    with pytest.raises(UserError, match="accepted"):
        scattering_features(images)


@pytest.mark.parametrize("name", ["scatter-bn", "scatter-linear"])
def test_gradients_are_finite_where_nothing_is_in_the_image(name):
    """The generator and white-box attacks follow them; a blank image has coefficients of zero."""
    model = build_model(name, (1, 28, 28), 10).eval().requires_grad_(False)
    model.head.weight.normal_()
    x = torch.zeros(2, 1, 28, 28)
    x[1, 0, 10:14, 10:14] = 1
    plain = model(x)
    x.requires_grad_()
    followed = model(x)
    torch.testing.assert_close(plain, followed, atol=1e-2, rtol=1e-2)
    (gradient,) = torch.autograd.grad(followed.square().sum(), x)
    assert gradient.isfinite().all() and gradient[1].abs().max() > 0
