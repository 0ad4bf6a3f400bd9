"""The student's optimiser against plain references."""

import pytest
import torch
from torch import nn

from dpsd.models.networks import build_model
from dpsd.student.optimizer import MuonAdamW, make_optimizer

LR, STEPS = 0.01, 3


def _model(name="cnn-small"):
    torch.manual_seed(0)
    return build_model(name, (1, 12, 12), 4).to(memory_format=torch.channels_last)


def _rows(weight):
    """[out, rest], a copy."""
    return (
        (weight.permute(0, 2, 3, 1) if weight.ndim == 4 else weight)
        .reshape(len(weight), -1)
        .clone()
    )


def _learn(model, optimizer, steps=STEPS):
    rng = torch.Generator().manual_seed(1)
    for _ in range(steps):
        images, labels = torch.rand(16, 1, 12, 12, generator=rng), torch.arange(16) % 4
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images), labels).backward()
        optimizer.step()


def test_inner_matrices_follow_muon_and_the_rest_adamw():
    model = _model()
    weights = dict(model.named_parameters())
    inner = ["body.0.weight", "body.4.weight", "body.8.weight", "body.13.weight"]
    plain = {n: nn.Parameter(p.detach().clone()) for n, p in weights.items()}
    rows = {n: nn.Parameter(_rows(plain[n].detach())) for n in inner}
    muon = torch.optim.Muon(rows.values(), lr=LR, weight_decay=1e-4, adjust_lr_fn="match_rms_adamw")
    adamw = torch.optim.AdamW(
        [p for n, p in plain.items() if n not in inner], lr=LR, weight_decay=1e-4
    )
    optimizer = MuonAdamW(model, LR)
    for _ in range(STEPS):
        _learn(model, optimizer, 1)
        for name, weight in weights.items():
            if name in inner:
                rows[name].grad = _rows(weight.grad)
            else:
                plain[name].grad = weight.grad.clone()
        muon.step()
        adamw.step()
    for name, weight in weights.items():
        if name in inner:
            torch.testing.assert_close(_rows(weight), rows[name])
        else:
            torch.testing.assert_close(weight, plain[name], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ["cnn-tiny", "resnet20", "scatter-bn"])
def test_every_weight_moves_in_all_kinds_of_networks(name):
    torch.manual_seed(0)
    model = build_model(name, (1, 12, 12), 4).to(memory_format=torch.channels_last)
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    _learn(model, MuonAdamW(model, LR))
    assert all(not torch.equal(p, before[n]) for n, p in model.named_parameters())


def test_weights_in_another_order_learn_too():
    model = _model().to(memory_format=torch.contiguous_format)
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    _learn(model, MuonAdamW(model, LR))
    assert all(not torch.equal(p, before[n]) for n, p in model.named_parameters())


def test_one_learning_rate_is_set_for_both_parts():
    model = _model()
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    optimizer = MuonAdamW(model, LR)
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    _learn(model, optimizer)
    assert all(torch.equal(p, before[n]) for n, p in model.named_parameters())


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_a_resumed_optimizer_goes_on_as_one_that_never_stopped(name):
    whole, stopped = _model(), _model()
    one, two = make_optimizer(whole, name, LR), make_optimizer(stopped, name, LR)
    _learn(whole, one)
    _learn(stopped, two)
    again = _model()
    again.load_state_dict(stopped.state_dict())
    resumed = make_optimizer(again, name, LR)
    resumed.load_state_dict(two.state_dict())
    _learn(whole, one)
    _learn(again, resumed)
    for a, b in zip(whole.parameters(), again.parameters(), strict=True):
        assert torch.equal(a, b)
