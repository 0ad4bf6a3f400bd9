"""A two-layer ReLU network is taken apart: kinks, units, and a clone that says the same."""

import pytest
import torch
from extraction_digits import agreement, clones, digits, holdings, pool
from torch import Tensor, nn

from dpsd.attacks.extraction.clone import predict
from dpsd.attacks.extraction.weights.kinks import Stretch, gradient, line, stretches, unit_between
from dpsd.attacks.extraction.weights.relu import relu


def network(units: int) -> nn.Module:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, units), nn.ReLU(), nn.Linear(units, 10))
    with torch.no_grad():  # units change sides among the images
        net[1].bias.copy_(-net[1].weight @ (pool().float() / 255).mean(0).flatten())
        net[3].weight.mul_(6)
    return net.eval().requires_grad_(False)


def logits(net: nn.Module, images: Tensor) -> Tensor:
    out = net.double()(images.double() / 255)
    return out - out.mean(1, keepdim=True)


def test_a_line_is_whole_grey_levels_and_stays_between_its_ends() -> None:
    points = line(pool()[0], pool()[1]).int()
    steps = points.diff(dim=0)
    assert points.shape == (65, 1, 8, 8) and bool((steps == steps[0]).all())
    assert torch.equal(points[0], pool()[0].int())
    assert int((points[-1] - pool()[1].int()).abs().max()) < 64


def test_stretches_lie_between_kinks() -> None:
    place = torch.arange(21.0).double()
    bent = (place - 5.5).relu() - 2 * (place - 14).relu() + 0.3 * place
    found = stretches(torch.stack([bent, -bent], 1))
    assert found == [Stretch(0, 5), Stretch(6, 14), Stretch(14, 20)]


def test_gradients_and_units_are_those_of_the_network() -> None:
    net = network(3)
    points = line(pool()[0], pool()[3])
    along = logits(net, points)
    near = points[20]
    found = gradient(near, along[20], lambda x: logits(net, x))
    x = (near.double() / 255)[None].requires_grad_()
    rows = [torch.autograd.grad(net(x)[0, k], x, retain_graph=True)[0].flatten() for k in range(10)]
    exact = torch.stack(rows, 1)
    torch.testing.assert_close(found, exact - exact.mean(1, keepdim=True), atol=1e-6, rtol=1e-6)
    pieces = stretches(along)
    assert len(pieces) > 1
    one, other = pieces[:2]
    slopes = [gradient(points[s.middle], along[s.middle], lambda x: logits(net, x)) for s in pieces]
    unit = unit_between(slopes[0], slopes[1], along, points, one, other)
    assert unit is not None
    own = net[1].weight / net[1].weight.norm(dim=1, keepdim=True)
    match = own @ unit.weight
    best = int(match.abs().argmax())
    assert float(match[best].abs()) == pytest.approx(1, abs=1e-6)
    bias = float(net[1].bias[best] / net[1].weight[best].norm()) * float(match[best].sign())
    assert unit.bias == pytest.approx(bias, abs=1e-6)


def test_a_clone_of_a_small_network_says_the_same() -> None:
    net = network(6)

    def ask(images: Tensor) -> Tensor:
        return predict(net.float(), images)

    less, more = clones(relu, holdings(150, 3000), ask=ask)
    images = digits()[0][1400:]
    gaps = [float((predict(c.model, images) - ask(images)).abs().mean()) for c in (less, more)]
    assert agreement(more, ask) > 0.995 and gaps[1] < 1e-4 < gaps[0]
