"""Many networks at once give what each gives alone."""

import pytest
import torch
import torch.nn.functional as F
from torch.func import functional_call, stack_module_state, vmap

from dpsd.models.networks import build_model
from dpsd.models.stacked import group_norm, stack, stacked_logits


@pytest.mark.parametrize("name", ["cnn-tiny", "cnn-small", "cnn"])
@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 12, 16)])
def test_logits_are_those_of_each_network_and_of_vmap(name, shape):
    torch.manual_seed(0)
    nets = [build_model(name, shape, 5, norm="group").eval() for _ in range(3)]
    images = torch.rand(3, 4, *shape)
    with torch.no_grad():
        wanted = torch.stack([net(x) for net, x in zip(nets, images, strict=True)])
        alike = torch.stack([net(images[0]) for net in nets])
        parameters, buffers = stack_module_state(nets)
        mapped = vmap(lambda p, b, x: functional_call(nets[0], (p, b), (x,)))(
            parameters, buffers, images
        )
        found = stacked_logits(nets[0], stack(nets), images, torch.float32)
        shared = stacked_logits(nets[0], stack(nets), images[0], torch.float32)
    torch.testing.assert_close(found, wanted, atol=2e-5, rtol=1e-4)
    torch.testing.assert_close(found, mapped, atol=2e-5, rtol=1e-4)
    torch.testing.assert_close(shared, alike, atol=2e-5, rtol=1e-4)


def test_gradients_are_those_of_each_network():
    torch.manual_seed(0)
    nets = [build_model("cnn-tiny", (1, 12, 12), 4) for _ in range(3)]
    images, labels = torch.rand(3, 6, 1, 12, 12), torch.randint(0, 4, (3, 6))
    weights = {name: w.requires_grad_() for name, w in stack(nets).items()}
    logits = stacked_logits(nets[0], weights, images, torch.float32)
    F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="sum").backward()
    for i, net in enumerate(nets):
        F.cross_entropy(net(images[i]), labels[i], reduction="sum").backward()
        for name, p in net.named_parameters():
            torch.testing.assert_close(weights[name].grad[i], p.grad, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize(("channels", "groups", "side"), [(12, 3, 6), (8, 8, 3), (4, 1, 5)])
def test_group_norm_is_torchs(channels, groups, side):
    torch.manual_seed(0)
    x = torch.randn(5, channels, side, side + 1, requires_grad=True)
    weight, bias = (torch.randn(channels, requires_grad=True) for _ in range(2))
    pull = torch.randn_like(x)
    results = []
    for norm in (F.group_norm, group_norm):
        y = norm(x, groups, weight, bias, eps=1e-5)
        results.append([y, *torch.autograd.grad((y * pull).sum(), (x, weight, bias))])
    for found, wanted in zip(*results, strict=True):
        torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-4)
