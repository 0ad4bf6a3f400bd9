"""Features that public pictures fix: components against an SVD; a model that DP-SGD may train."""

import math

import pytest
import torch

from dpsd.models import public_features
from dpsd.models.dp_networks import fixed_inputs, trainable_part
from dpsd.models.networks import build_model
from dpsd.models.public_features import principal, public_components, public_crops
from dpsd.models.scattering import scattering_features, unit_roots

SHAPE = (3, 16, 16)


@pytest.fixture
def few(monkeypatch):
    """Forty crops, ten components."""
    monkeypatch.setattr(public_features, "_CROPS", 40)
    monkeypatch.setattr(public_features, "COMPONENTS", 10)
    public_components.cache_clear()
    yield
    public_components.cache_clear()


def test_principal_components_are_those_of_a_singular_value_decomposition():
    rng = torch.Generator().manual_seed(0)
    rows = torch.randn(30, 50, generator=rng, dtype=torch.float64) * torch.linspace(3, 0.1, 50)
    rows -= rows.mean(0)
    columns, deviations = principal(rows, 5)
    _, values, right = torch.linalg.svd(rows, full_matrices=False)
    torch.testing.assert_close(deviations, values[:5] / math.sqrt(30))
    torch.testing.assert_close((columns.T @ right[:5].T).abs(), torch.eye(5).double())
    assert principal(rows[:, :3], 9)[0].shape == (3, 3)


@pytest.mark.parametrize("shape", [SHAPE, (1, 12, 20)])
def test_crops_are_the_same_each_time_and_differ_from_each_other(shape):
    crops = public_crops(shape, 20)
    assert crops.dtype == torch.uint8 and crops.shape == (20, *shape)
    assert torch.equal(crops, public_crops(shape, 20))
    assert len({bytes(x.numpy()) for x in crops}) == 20
    assert crops.float().std((1, 2, 3)).median() > 10  # pictures, not plain areas


def test_features_of_the_crops_are_centred_and_half_whitened(few):
    model = build_model("scatter-public", SHAPE, 4)
    features = model.inputs(public_crops(SHAPE, 40).float() / 255)
    assert features.shape == (40, 10) and float(features.mean(0).abs().max()) < 1e-4
    covariance = features.T @ features / 40
    apart = covariance - covariance.diag().diag()
    assert float(apart.abs().max()) < 1e-3 * float(covariance.diag().max())
    # Half whitened: the deviation of a feature is the root of its component's, times one scale.
    roots = unit_roots(scattering_features(public_crops(SHAPE, 40)))
    centred = (roots - roots.mean(0)) / (roots.std(0) + 1e-6)
    lengths = torch.linalg.svdvals(centred)[:10]
    ratio = covariance.diag().sqrt() / (lengths / math.sqrt(40)).sqrt()
    torch.testing.assert_close(ratio, ratio[:1].expand(10), rtol=1e-3, atol=0)


def test_dp_sgd_trains_the_head_on_rows_that_do_not_see_each_other(few):
    model = build_model("scatter-public", SHAPE, 4)
    images = public_crops(SHAPE, 6)
    assert trainable_part(model) is model.head and not model(images / 255).any()
    rows, prepare = fixed_inputs(model, images)
    alone = torch.cat([model.inputs(x[None] / 255) for x in images])
    torch.testing.assert_close(prepare(rows), alone, atol=5e-3, rtol=5e-3)  # kept in float16
    # The weights of one model are not those of the next.
    model.components.zero_()
    assert build_model("scatter-public", SHAPE, 4).components.any()
