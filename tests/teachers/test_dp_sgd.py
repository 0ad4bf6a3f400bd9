"""DP-SGD: the mechanism that runs is the one that is accounted."""

import copy
import functools
import json
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from dpsd.cli import main
from dpsd.config import load_config
from dpsd.config.sections import DpConfig
from dpsd.errors import UserError
from dpsd.models.dp_networks import build_dp_model, fixed_inputs, trainable_part
from dpsd.models.networks import build_model
from dpsd.privacy.inherited import read_dp_ledger
from dpsd.privacy.ledger import Ledger
from dpsd.privacy.noise import NoiseSource
from dpsd.teachers import dp_sgd
from dpsd.teachers.dp_sgd import (
    NoisyOptimizer,
    _add_clipped,
    _add_linear,
    epsilon_of,
    least_noise,
    plan_training,
    poisson_rows,
    train_dp,
)
from dpsd.teachers.teacher import ensure_teacher, load_teacher
from dpsd.transcription.transcribe import transcribe

SHAPE = (1, 28, 28)


def _quiet(text):
    pass


def _naive_sum(part, x, y, bound):
    """Clip and add the gradients of one row after another, float64."""
    part = copy.deepcopy(part).double()
    total = [torch.zeros_like(p) for p in part.parameters()]
    for row, label in zip(x.double(), y, strict=True):
        loss = F.cross_entropy(part(row[None]), label[None])
        gradient = torch.autograd.grad(loss, list(part.parameters()))
        norm = math.sqrt(sum(float(g.square().sum()) for g in gradient))
        for t, g in zip(total, gradient, strict=True):
            t += g * min(1.0, bound / norm)
    return total


def _clipped(part, x, y, bound):
    from opacus import GradSampleModule

    for p in part.parameters():
        p.summed_grad = torch.zeros_like(p)
    if isinstance(part, nn.Linear):
        _add_linear(part, x, y, bound)
    else:
        engine = GradSampleModule(part, loss_reduction="sum")
        optimizer = NoisyOptimizer(
            torch.optim.SGD(part.parameters(), lr=1.0), noise_multiplier=1.0, max_grad_norm=bound,
            expected_batch_size=4, loss_reduction="sum",
        )  # fmt: skip
        for p in part.parameters():
            p.summed_grad = torch.zeros_like(p)
        _add_clipped(engine, optimizer, x[:5], y[:5])  # two chunks add up
        _add_clipped(engine, optimizer, x[5:], y[5:])
    return [p.summed_grad for p in part.parameters()]


@pytest.mark.parametrize("name", ["scatter-linear", "cnn-tanh", "cnn-small"])
@pytest.mark.parametrize("bound", [0.05, 1e4])
def test_clipped_sum_is_that_of_one_row_after_another(name, bound, tiny_images):
    torch.manual_seed(0)
    model = build_model(name, SHAPE, 10, norm="group")
    part = trainable_part(model)
    with torch.no_grad():
        for p in part.parameters():
            p.add_(0.02 * torch.randn_like(p))
    x = fixed_inputs(model, tiny_images)[0].float() / (1 if "scatter" in name else 255)
    y = torch.arange(16) % 10
    expected = _naive_sum(part, x, y, bound)
    found = _clipped(part, x, y, bound)
    size = math.sqrt(sum(float(e.square().sum()) for e in expected))
    for f, e in zip(found, expected, strict=True):
        torch.testing.assert_close(f.double(), e, atol=1e-4 * size, rtol=1e-3)
    if bound < 1:  # every gradient is clipped, none beyond the bound
        assert 0 < size <= 16 * bound * 1.0001


@pytest.mark.parametrize("name", ["scatter-linear", "cnn-tanh"])
def test_one_step_without_rows_is_noise_of_the_stated_deviation(name, tiny_images):
    """At a negligible sampling rate the weights move by lr * C * multiplier / batch * N(0, 1)."""
    torch.manual_seed(0)
    model = build_model(name, SHAPE, 10)
    before = torch.cat([p.detach().clone().flatten() for p in trainable_part(model).parameters()])
    images = tiny_images[:1].expand(40_000, -1, -1, -1)
    if name == "scatter-linear":
        images = images[:300]
    rows = len(images)
    dp = DpConfig(epsilon=1e9, noise_multiplier=3.0, max_grad_norm=0.2, batch_size=1,
                  epochs=1 / rows, lr=2.0)  # fmt: skip
    source = NoiseSource(b"step")
    recipe = train_dp(model, images, torch.zeros(rows).long(), dp, source=source, say=_quiet)
    assert (recipe.steps, recipe.noise_multiplier, recipe.sample_rate) == (1, 3.0, 1 / rows)
    after = torch.cat([p.detach().flatten() for p in trainable_part(model).parameters()])
    moved = (after - before) / (2.0 * 0.2 * 3.0)
    assert float(moved.std()) == pytest.approx(1, abs=0.03)
    assert abs(float(moved.mean())) < 0.03


def test_poisson_sampling_draws_each_row_with_its_own_chance():
    source = NoiseSource(b"poisson")
    counts = np.zeros(1000)
    sizes = []
    for _ in range(400):
        rows = poisson_rows(1000, 0.1, source)
        counts[rows.numpy()] += 1
        sizes.append(len(rows))
    assert np.mean(sizes) == pytest.approx(100, abs=2)
    assert np.var(sizes) == pytest.approx(90, rel=0.3)  # binomial: the size is random
    assert counts.var() == pytest.approx(400 * 0.1 * 0.9, rel=0.2)
    assert len(poisson_rows(50, 1.0, source)) == 50


def test_relations_differ_as_published():
    """Multiplier 1.3, q = 512 / 60,000, 15 epochs: 2.29 for replace-one, not 1.28."""
    steps = round(15 * 60_000 / 512)
    assert epsilon_of(1.3, 512 / 60_000, steps, 1e-5) == pytest.approx(2.29, abs=0.01)
    other = epsilon_of(1.3, 512 / 60_000, steps, 1e-5, relation="add_or_remove_one")
    assert other == pytest.approx(1.28, abs=0.015)


def test_full_batches_are_the_gaussian_mechanism_of_twice_the_norm():
    """Sampling rate one: mu = 2 sqrt(steps) / multiplier, exactly."""
    from dpsd.privacy.accounting import gaussian_epsilon

    exact = gaussian_epsilon(2 * math.sqrt(10) / 8.0, 1e-5)
    assert epsilon_of(8.0, 1.0, 10, 1e-5) == pytest.approx(exact, rel=2e-3)


@pytest.mark.parametrize("epsilon", [0.5, 50.0])
def test_least_noise_keeps_to_epsilon_and_hardly_less_would(epsilon):
    rate, steps = 4096 / 54_000, 10
    noise = least_noise(epsilon, 1e-5, rate, steps)
    assert epsilon_of(noise, rate, steps, 1e-5) <= epsilon
    assert epsilon_of(noise * 0.995, rate, steps, 1e-5) > epsilon


@pytest.mark.parametrize("epsilon", [0.3, 4.0, 20.0, 1e9])
def test_least_noise_is_that_of_a_plain_bisection(epsilon, monkeypatch):
    """In half the evaluations, where epsilon falls with the noise as (1 + noise) / noise^2 does."""
    calls = []

    def spent(noise, *rest):
        calls.append(noise)
        return max(0.0, (1 + noise) / noise**2 - 1.5)

    def plain():
        high, low = 1.0, 0.5
        while spent(high) > epsilon:
            high, low = 2 * high, high
        while high == 2 * low and low > 0.05 and spent(low) <= epsilon:
            high, low = low, low / 2
        while high > low * 1.0005:
            middle = math.sqrt(low * high)
            high, low = (middle, low) if spent(middle) <= epsilon else (high, middle)
        return high

    monkeypatch.setattr(dp_sgd, "epsilon_of", functools.cache(spent))
    found, once = least_noise(epsilon, 1e-5, 0.1, 10), len(calls)
    assert found == plain()
    assert once <= (0.6 if epsilon < 100 else 1) * (len(calls) - once)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch_size": 500}, "teacher.dp.batch_size: 500; accepted: up to the 400"),
        ({"noise_multiplier": 0.5}, "teacher.dp.noise_multiplier: 0.5 costs epsilon"),
        ({"epsilon": None}, "teacher.dp.epsilon: null"),
    ],
)
def test_what_cannot_be_trained_is_refused(change, message):
    dp = DpConfig.model_validate({"epsilon": 1.0, "batch_size": 100, "epochs": 1} | change)
    with pytest.raises(UserError, match=message):
        plan_training(dp, 400)


def test_batch_norm_is_refused(tiny_images):
    dp = DpConfig(epsilon=3.0, batch_size=4, epochs=0.25)
    model = build_model("cnn-small", SHAPE, 10, norm="batch")
    with pytest.raises(UserError, match="batch norm"):
        train_dp(model, tiny_images, torch.zeros(16).long(), dp, source=NoiseSource(), say=_quiet)


def test_weights_that_diverge_are_refused(tiny_images):
    dp = DpConfig(epsilon=3.0, batch_size=4, epochs=0.5, lr=1e9, max_grad_norm=10)
    model = build_dp_model("cnn-tanh", SHAPE, 10)
    with pytest.raises(UserError, match=r"teacher\.dp\.lr"):
        train_dp(model, tiny_images, torch.zeros(16).long(), dp, source=NoiseSource(), say=_quiet)


def test_head_trains_on_what_the_model_reads(tiny_images):
    """The precomputed inputs and the images give the same logits."""
    torch.manual_seed(0)
    model = build_dp_model("scatter-linear", SHAPE, 10).eval()
    nn.init.normal_(next(trainable_part(model).parameters()), std=0.05)
    with torch.no_grad():
        direct = model(tiny_images.float() / 255)
        split = trainable_part(model)(fixed_inputs(model, tiny_images)[0].float())
    torch.testing.assert_close(direct, split, atol=0.02, rtol=0)


@pytest.mark.parametrize("name", ["scatter-linear", "cnn-small"])
def test_teacher_folder_holds_the_ledger_and_the_teacher_learns(name, tmp_path, capsys):
    """Digits at a large eps for one record, by the command line; the ledger is this teacher's."""
    linear = name == "scatter-linear"
    path = tmp_path / "config.yaml"
    path.write_text(
        f"data: {{name: digits}}\nteacher: {{model: {name}, root: {tmp_path}/teachers}}\n"
        "device: cpu\nprivacy: {epsilon: 1, insecure_seeded_noise: true}\n"
    )
    dp = ["epsilon=50", "batch_size=256", "lr=4", f"epochs={10 if linear else 0.5}"]
    assert main(["teacher", str(path), "--dp", *dp]) == 0
    assert '"seeded_noise": true' in capsys.readouterr().out
    config = load_config(path, [f"teacher.dp.{item}" for item in dp])
    home = ensure_teacher(config, pytest.fail)  # there already
    ledger = read_dp_ledger(home.path, home.uuid)
    assert ledger.rows == home.facts["rows"]["train"]
    assert ledger.sample_rate == 256 / ledger.rows and ledger.seeded_noise
    spent = epsilon_of(ledger.noise_multiplier, ledger.sample_rate, ledger.steps, 1e-5)
    assert 49 < spent <= 50
    assert not linear or home.facts["accuracy"]["holdout"] > 0.8
    assert home.ledger("record")[0] == tmp_path / "teachers/datasets/digits"
    assert home.ledger("answer") == (home.path, home.uuid)
    logits = load_teacher(config, home)(torch.zeros(2, *SHAPE, dtype=torch.uint8))
    assert logits.shape == (2, 10)
    with pytest.raises(UserError):
        read_dp_ledger(home.path, "another")


def test_who_asks_a_dp_trained_teacher_is_in_both_ledgers(tmp_path):
    """Open answers count for the next reader of the table; the training for the data's records."""

    def run(name, *items):
        path = tmp_path / "config.yaml"
        path.write_text(
            f"data: {{name: digits}}\nteacher: {{model: scatter-linear, root: {tmp_path}/t}}\n"
            "device: cpu\nstudent: {refit_epochs: 0}\nloop: {rounds: 2}\n"
        )
        dp = ["epsilon=50", "noise_multiplier=2", "batch_size=256", "epochs=1"]
        items = [*(f"teacher.dp.{item}" for item in dp), "privacy.answers=40", *items]
        done = transcribe(load_config(path, items), out=tmp_path / name)
        return json.loads((done.release / "statement.json").read_text())

    gaussian = ["privacy.mechanism=gaussian", "privacy.epsilon=1"]
    inherited = ["privacy.route=inherited", "privacy.unit=record", "privacy.mechanism=none"]
    first = run("a", *gaussian)
    assert first["guarantee"]["composed_epsilon"] == pytest.approx(1, rel=1e-3)
    second = run("b", *inherited)
    assert [r["run"] for r in second["earlier_runs"]] == [first["run"]]  # on the data
    assert second["guarantee"]["composed_epsilon"] == second["guarantee"]["epsilon"]
    third = run("c", *gaussian)
    assert [r["run"] for r in third["earlier_runs"]] == [first["run"], second["run"]]
    assert third["guarantee"]["epsilon"] == pytest.approx(1, rel=1e-3)
    assert third["guarantee"]["composed_epsilon"] is None  # the same images, unprotected, in b
    (data,) = (tmp_path / "t/datasets").iterdir()
    runs = Ledger(data, json.loads((data / "dataset.json").read_text())["uuid"]).runs()
    assert [r.run for r in runs] == [f["run"] for f in (first, second, third)]
    assert {type(r.event).__name__ for r in runs} == {"DpSgdRelease"}


@pytest.mark.parametrize("item", ["teacher.weights=my.pt", "teacher.model=my.module:net"])
def test_own_teacher_is_not_trained(item):
    with pytest.raises(UserError, match=r"teacher\.dp\.epsilon: 3, but .* is your own"):
        load_config(None, ["privacy.epsilon=1", "teacher.dp.epsilon=3", item])
