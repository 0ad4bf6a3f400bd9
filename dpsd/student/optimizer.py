"""The student's optimiser: AdamW, or Muon for the weights that are matrices."""

from typing import Any, Literal

import torch
from torch import Tensor, nn

_DECAY = 1e-4


class MuonAdamW:
    """Muon for the weights of inner layers, AdamW for the rest; used like one optimiser of torch.

    Muon (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/) steps along the momentum's
    nearest orthogonal matrix, so that directions with small gradients advance like those with large
    ones. Its steps are as long as AdamW's (Liu et al. 2025, arXiv 2502.16982), so that both go by
    one learning rate. A convolution counts as a matrix with a row for each output channel. The last
    layer, biases and normalisation are AdamW's, and so is a convolution whose weights lie in
    another order.

    Args:
        model: convolutions in `channels_last`.
        lr: learning rate.
    """

    def __init__(self, model: nn.Module, lr: float) -> None:
        weights = [p for p in model.parameters() if p.ndim in (2, 4)][:-1]
        weights = [p for p in weights if _rows(p.detach()).data_ptr() == p.data_ptr()]
        self._matrices = [(p, nn.Parameter(_rows(p.detach()))) for p in weights]
        inner = {id(p) for p in weights}
        rest = [p for p in model.parameters() if id(p) not in inner]
        self._parts: list[torch.optim.Optimizer] = [
            torch.optim.AdamW(rest, lr=lr, weight_decay=_DECAY, fused=True)
        ]
        if weights:
            self._parts.append(
                torch.optim.Muon(
                    [m for _, m in self._matrices], lr=lr, weight_decay=_DECAY,
                    adjust_lr_fn="match_rms_adamw",
                )
            )  # fmt: skip

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """Those of both, whose `lr` a schedule may set."""
        return [group for part in self._parts for group in part.param_groups]

    def zero_grad(self) -> None:
        """Forget the gradients."""
        for weight, _ in self._matrices:
            weight.grad = None
        for part in self._parts:
            part.zero_grad()

    def step(self) -> None:
        """Move all weights by their gradients."""
        for weight, matrix in self._matrices:
            matrix.grad = None if weight.grad is None else _rows(weight.grad)
        for part in self._parts:
            part.step()

    def state_dict(self) -> dict[str, Any]:
        """The state of both."""
        return {"parts": [part.state_dict() for part in self._parts]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of `state_dict`."""
        for part, kept in zip(self._parts, state["parts"], strict=True):
            part.load_state_dict(kept)


def make_optimizer(
    model: nn.Module, name: Literal["adamw", "muon"], lr: float
) -> torch.optim.AdamW | MuonAdamW:
    """The optimiser of this name over all of a model's weights."""
    if name == "muon":
        return MuonAdamW(model, lr)
    return torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=_DECAY, fused=True)


def _rows(weight: Tensor) -> Tensor:
    """A weight [out, in, ...] as a matrix [out, rest]; in `channels_last` it shares its memory."""
    return weight.movedim(1, -1).flatten(1)
