"""DP-SGD for teachers: the weights, and all that is computed from them, protect one record.

Each step draws each row independently with the same probability (Poisson sampling). It clips the
gradient of each drawn row to a norm, sums them, adds Gaussian noise, and divides by the *expected*
batch size (Abadi et al. 2016, algorithm 1). Opacus computes the gradients of the rows and clips
them; one linear layer has a closed form.

Guarantee: (eps, delta)-DP for one record, relation replace-one, where the number of rows is public.
It covers one training whose hyper-parameters were fixed beforehand.

Sampling and noise come from ChaCha20 under a key of the operating system (`NoiseSource`), in
float64. Opacus' `secure_mode` is not used: it needs torchcsprng, which no longer installs. The
guarantee does not cover attacks on the rounding of floats.
"""

import functools
import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from opacus import GradSampleModule
from opacus.optimizers import DPOptimizer
from scipy.optimize import brentq
from torch import Tensor, nn

from dpsd.config.sections import DpConfig
from dpsd.console import track
from dpsd.data.rows import Images, ahead
from dpsd.errors import UserError
from dpsd.models.dp_networks import fixed_inputs, trainable_part
from dpsd.privacy.noise import NoiseSource

_GRADIENTS_AT_ONCE = 2**25  # numbers in the gradients of all rows of a chunk
_LEAST_NOISE = 0.05
# A larger weight may overflow a gradient. Weights are public after the noise, so a check is free.
_LARGEST_WEIGHT = 1e6


@dataclass(frozen=True)
class DpRecipe:
    """The mechanism of a training, fixed before the data are read.

    Its three figures, and nothing else, decide the guarantee for one record.
    """

    noise_multiplier: float
    """Standard deviation of the noise on a sum of clipped gradients, by the clipping norm."""
    sample_rate: float
    """Probability that a row is in a step's batch."""
    steps: int


def plan_training(dp: DpConfig, rows: int) -> DpRecipe:
    """The mechanism for a public number of rows.

    Raises:
        UserError: a batch larger than the data; no epsilon; or a noise multiplier that costs more
            than that epsilon, for one record.
    """
    if dp.batch_size > rows:
        raise UserError(
            f"teacher.dp.batch_size: {dp.batch_size}; accepted: up to the {rows} training rows"
        )
    rate = dp.batch_size / rows
    steps = math.ceil(dp.epochs / rate)
    if dp.epsilon is None:
        raise UserError("teacher.dp.epsilon: null; DP-SGD needs a number above 0, for one record")
    noise = dp.noise_multiplier
    if noise is None:
        noise = least_noise(dp.epsilon, dp.delta, rate, steps)
    elif (spent := epsilon_of(noise, rate, steps, dp.delta)) > dp.epsilon:
        raise UserError(
            f"teacher.dp.noise_multiplier: {noise} costs epsilon {spent:.3f} for one record "
            f"(replace-one, delta {dp.delta:g}); accepted with teacher.dp.epsilon {dp.epsilon:g}: "
            f"from {least_noise(dp.epsilon, dp.delta, rate, steps):.4f}, or null"
        )
    return DpRecipe(noise, rate, steps)


@functools.lru_cache(maxsize=256)
def epsilon_of(
    noise_multiplier: float,
    rate: float,
    steps: int,
    delta: float,
    relation: Literal["replace_one", "add_or_remove_one"] = "replace_one",
) -> float:
    """Epsilon of DP-SGD for one record, from the mechanism alone.

    dp-accounting computes it by the privacy-loss distribution of the Poisson-subsampled Gaussian
    and rounds it up. Replace-one costs up to twice as much as add-or-remove-one.
    """
    import dp_accounting
    from dp_accounting.pld import PLDAccountant

    neighbours = dp_accounting.NeighboringRelation[relation.upper()]
    accountant = PLDAccountant(neighbours, value_discretization_interval=1e-3)
    gaussian = dp_accounting.GaussianDpEvent(noise_multiplier)
    accountant.compose(dp_accounting.PoissonSampledDpEvent(rate, gaussian), steps)
    return float(accountant.get_epsilon(delta))


def least_noise(epsilon: float, delta: float, rate: float, steps: int) -> float:
    """The least noise multiplier, to 0.05 %, that keeps to epsilon for one record (replace-one).

    It is never below 0.05, where epsilon means nothing any more.

    Raises:
        UserError: an epsilon so small that no noise multiplier up to 10,000 keeps to it.
    """

    def spent(noise: float) -> float:
        return epsilon_of(noise, rate, steps, delta)

    high = 1.0
    while spent(high) > epsilon:
        high *= 2
        if high > 1e4:
            raise UserError(f"teacher.dp.epsilon: {epsilon:g} needs a noise multiplier above 10000")
    low = high / 2
    if high == 1:
        while low > _LEAST_NOISE and spent(low) <= epsilon:
            high, low = low, low / 2
    enough, scarce = high, 0.0

    def excess(log2_noise: float) -> float:
        nonlocal enough, scarce
        noise = 2.0**log2_noise
        if spent(noise) <= epsilon:
            enough = min(enough, noise)
        else:
            scarce = max(scarce, noise)
        return math.log(min(max(spent(noise), 1e-12), 1e300) / epsilon)

    # Epsilon falls with the noise. So noise next to the answer, to either side of it, spares a
    # third to a half of the evaluations that the bisection would need.
    if low > _LEAST_NOISE:
        brentq(excess, math.log2(low), math.log2(high), xtol=1e-4)
    while high > low * 1.0005:
        middle = math.sqrt(low * high)
        keeps = middle >= enough or (middle > scarce and spent(middle) <= epsilon)
        high, low = (middle, low) if keeps else (high, middle)
    return high


class NoisyOptimizer(DPOptimizer):
    """Opacus' optimiser for sums of clipped gradients, with the noise of a `NoiseSource`."""

    source: NoiseSource

    def add_noise(self) -> None:
        """Put the noisy sum of clipped gradients into each `grad`."""
        std = self.noise_multiplier * self.max_grad_norm
        for p in self.params:
            noise = torch.from_numpy(self.source.normals(tuple(p.shape))).to(p.device)
            p.grad = (p.summed_grad.double() + std * noise).to(p.dtype)


def train_dp(
    model: nn.Module,
    images: Images,
    labels: Tensor,
    dp: DpConfig,
    *,
    source: NoiseSource,
    say: Callable[[str], None],
) -> DpRecipe:
    """Train a model in place by DP-SGD with momentum.

    Args:
        model: keeps the rows of a batch apart. Its initial weights must not depend on the data.
        images: uint8 [N, C, H, W], in memory or on disk.
        labels: int64 [N].
        dp: the hyper-parameters.
        source: of the sampling and of the noise.
        say: receives a line on public figures ten times.

    Returns:
        The mechanism that was run.

    Raises:
        UserError: as `plan_training`; a model with batch norm; weights that diverge; an image on
            disk that cannot be read.
    """
    recipe = plan_training(dp, len(labels))
    part = trainable_part(model).train()
    if any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in part.modules()):
        raise UserError("teacher.model: batch norm mixes the rows; DP-SGD needs group norm")
    inputs, prepare = fixed_inputs(model, images)
    device = next(part.parameters()).device
    linear = isinstance(part, nn.Linear)
    engine: nn.Module = part if linear else GradSampleModule(part, loss_reduction="sum")
    optimizer = NoisyOptimizer(
        torch.optim.SGD(part.parameters(), lr=dp.lr, momentum=dp.momentum),
        noise_multiplier=recipe.noise_multiplier, max_grad_norm=dp.max_grad_norm,
        expected_batch_size=dp.batch_size, loss_reduction="sum",
    )  # fmt: skip
    optimizer.source = source
    chunk_rows = max(1, min(1024, _GRADIENTS_AT_ONCE // sum(p.numel() for p in part.parameters())))
    for step in track(range(recipe.steps), "teacher: steps"):
        for p in part.parameters():
            p.summed_grad = torch.zeros_like(p)  # type: ignore[attr-defined]
        rows = poisson_rows(len(labels), recipe.sample_rate, source)
        for chunk, drawn in ahead(inputs, rows.split(chunk_rows)):
            x, y = prepare(drawn.to(device)), labels[chunk].to(device)
            if isinstance(part, nn.Linear):
                _add_linear(part, x, y, dp.max_grad_norm)
            else:
                _add_clipped(engine, optimizer, x, y)
        optimizer.add_noise()
        for p in part.parameters():
            p.grad = None if p.grad is None else p.grad / dp.batch_size
        optimizer.original_optimizer.step()
        if not all(bool((p.detach().abs() < _LARGEST_WEIGHT).all()) for p in part.parameters()):
            raise UserError(f"teacher.dp.lr: {dp.lr:g}: the weights diverged at step {step + 1}")
        if (step + 1) % max(1, recipe.steps // 10) == 0:
            say(f"DP-SGD step {step + 1}/{recipe.steps}")
    if isinstance(engine, GradSampleModule):
        engine.to_standard_module()
    for p in part.parameters():
        p.grad = None
    model.eval()
    return recipe


def poisson_rows(rows: int, rate: float, source: NoiseSource) -> Tensor:
    """Row numbers, int64 ascending, each drawn independently with probability `rate`."""
    threshold = min(int(rate * 2.0**64), 2**64 - 1)
    drawn = source.integers((rows,)) < np.uint64(threshold)
    return torch.from_numpy(np.flatnonzero(drawn))


def _add_linear(layer: nn.Linear, x: Tensor, y: Tensor, bound: float) -> None:
    """Add the clipped gradients of a linear layer's cross-entropy to `summed_grad`.

    A row's gradient is the outer product of its error e = softmax - onehot and (x, 1). Its norm is
    |e| sqrt(|x|^2 + 1), so that scaling e clips it (Goodfellow, arXiv 1510.01799).
    """
    with torch.no_grad():
        error = layer(x).softmax(1) - F.one_hot(y, layer.out_features)
        norm = error.norm(dim=1) * (x.square().sum(1) + 1).sqrt()
        error *= (bound / (norm + 1e-6)).clamp(max=1)[:, None]
        layer.weight.summed_grad += error.mT @ x  # type: ignore[attr-defined]
        layer.bias.summed_grad += error.sum(0)  # type: ignore[attr-defined]


def _add_clipped(engine: nn.Module, optimizer: NoisyOptimizer, x: Tensor, y: Tensor) -> None:
    """Add the clipped gradients of any network to `summed_grad`, by Opacus."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Full backward hook is firing")
        F.cross_entropy(engine(x), y, reduction="sum").backward()
    optimizer.clip_and_accumulate()
    for p in optimizer.params:
        p.grad = p.grad_sample = None
