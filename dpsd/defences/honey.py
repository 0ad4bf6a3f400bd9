"""Wrong answers where the model is in doubt."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from dpsd.defences.top import likeliest, swapped
from dpsd.errors import UserError


@dataclass(frozen=True)
class Honey:
    """Swaps the two likeliest classes where log p1 - log p2 is below the threshold.

    Queries near the boundary tell most about a model, and honest users ask few of them. No key
    enters: whoever knows the threshold and sees probabilities can tell a swap only by other means,
    since the pair of probabilities stays the same.

    Attributes:
        threshold: of the margin of log probabilities (which is that of the logits), above 0.
        accounts: whom it is for; None: for all.

    Example:
        >>> Honey(threshold=1.5)(p, images, key, "alice")  # log 0.61 - log 0.28 = 0.78
        tensor([[0.2800, 0.6100, 0.1100]], dtype=torch.float64)
    """

    threshold: float = 1.5
    accounts: frozenset[str] | None = None

    name = "honey"
    keeps_top1 = False
    hides_probabilities = False

    def __post_init__(self) -> None:
        if not 0 < self.threshold < math.inf:
            raise UserError(f"honey: threshold {self.threshold}; accepted: finite, above 0")

    def __call__(self, probabilities: Tensor, images: Tensor, key: bytes, account: str) -> Tensor:
        """As `Defence`."""
        if probabilities.shape[1] < 2 or (
            self.accounts is not None and account not in self.accounts
        ):
            return probabilities
        best = likeliest(probabilities, 2)
        first, second = probabilities.gather(1, best).log().unbind(1)
        margin = first - second
        changed = swapped(probabilities, best[:, 0], best[:, 1])
        return torch.where((margin < self.threshold)[:, None], changed, probabilities)
