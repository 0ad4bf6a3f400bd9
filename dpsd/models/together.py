"""Layers that see the whole batch where several processes hold a part of it each.

With them a step of several processes is that of one, but for the order of sums.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from dpsd.device import own_share, sum_over_ranks, world_size

_idle = False


@contextmanager
def without_rows() -> Iterator[None]:
    """For a rank that has no row of a batch: its forward pass of any one row counts for nothing.

    It is there to take part in the other ranks' sums.
    """
    global _idle
    _idle = True
    try:
        yield
    finally:
        _idle = False


class WholeBatchNorm(_BatchNorm):
    """Batch normalisation with the statistics of all ranks' rows (Ioffe and Szegedy 2015).

    `nn.SyncBatchNorm` does the same on GPUs alone. Input float [B, C, ...]; B may differ by rank. A
    batch of one value a channel has no statistics, so the running ones are used.
    """

    def _check_input_dim(self, input: Tensor) -> None:
        """Any number of dimensions from 2 on."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalised values of the same shape and dtype."""
        if not self.training or world_size() == 1:
            out: Tensor = super().forward(x)
            return out
        axes, shape = [0, *range(2, x.ndim)], [1, -1, *[1] * (x.ndim - 2)]
        values = x.to(torch.promote_types(x.dtype, torch.float32))
        counted = values[:0] if _idle else values
        count = values.new_tensor([counted.numel() // x.shape[1]])
        total = sum_over_ranks(torch.cat([counted.sum(axes), count]))
        n = total[-1].detach()
        if int(n) == 1:
            return F.batch_norm(
                x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps
            )
        mean = total[:-1] / n
        centred = values - mean.view(shape)
        variance = sum_over_ranks(centred[: len(counted)].square().sum(axes)) / n
        self._track(mean.detach(), variance.detach() * n / (n - 1))
        out = centred * (variance + self.eps).rsqrt().view(shape)
        if self.affine:
            out = out * self.weight.view(shape) + self.bias.view(shape)
        return out.to(x.dtype)

    def _track(self, mean: Tensor, variance: Tensor) -> None:
        """Move the running statistics as `nn.BatchNorm2d` does."""
        if self.running_mean is None or self.running_var is None:
            return
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        rate = self.momentum if self.momentum is not None else 1 / int(self.num_batches_tracked)
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), rate)
        self.running_var.lerp_(variance.to(self.running_var.dtype), rate)


class WholeDropout(nn.Dropout):
    """Dropout whose mask is drawn for the whole batch on every rank; each applies its own rows.

    The ranks' global random generators must stand alike.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Values of the same shape, some of them 0."""
        if not self.training or world_size() == 1:
            return super().forward(x)
        rows = int(sum_over_ranks(torch.tensor([0 if _idle else len(x)])))
        mask = own_share(F.dropout(x.new_ones((rows, *x.shape[1:])), self.p))
        return x if _idle else x * mask


def see_whole_batches(model: nn.Module) -> nn.Module:
    """The model with its batch normalisation and dropout replaced by those above.

    Weights and their names stay. Other layers that mix or draw by row (stochastic depth, say) stay
    as they are and see one rank's rows.
    """
    if isinstance(model, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d):
        new: nn.Module = WholeBatchNorm(
            model.num_features, model.eps, model.momentum, model.affine, model.track_running_stats
        )
        new.load_state_dict(model.state_dict())
        return new.train(model.training)
    if type(model) is nn.Dropout:
        return WholeDropout(model.p).train(model.training)
    for name, child in model.named_children():
        setattr(model, name, see_whole_batches(child))
    return model
