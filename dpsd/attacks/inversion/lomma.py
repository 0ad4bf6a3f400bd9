"""LOMMA (Nguyen et al. 2023): the logit loss, and surrogates distilled from the attacked model.

Cross-entropy has no gradient left once the model is sure; the logit itself has. An image that fools
the model at one point rarely fools its surrogates too.
"""

import torch
from torch import Tensor

from dpsd.attacks.inversion.targets import Logits
from dpsd.models.fit import FitRecipe, fit
from dpsd.models.networks import build_model

_KEEP = 0.01
_BATCH = 64
_LR = 2e-3


def logit_loss(logits: Tensor, labels: Tensor, reduction: str = "none") -> Tensor:
    """Minus the logit of the class, plus 0.01 of the squared norm of all logits, [B, K] -> [B].

    Equation 3 of the paper keeps the last features near those of public images instead. A model
    that is known by its logits alone offers no features, so the logits are kept small.
    """
    wanted = logits.gather(1, labels[:, None])[:, 0]
    return _KEEP * logits.square().sum(1) - wanted


def surrogates(
    logits: Logits, public: Tensor, classes: int, *, count: int, steps: int, seed: int
) -> list[Logits]:
    """Surrogates, which learned from the attacked model's soft labels of public images.

    Args:
        logits: of the attacked model.
        public: uint8 [N, C, H, W].
        classes: number of classes.
        count: how many.
        steps: of training for each.
        seed: of weights and batches.
    """
    shape = (int(public.shape[1]), int(public.shape[2]), int(public.shape[3]))
    made: list[Logits] = []

    def soft_labels(x: Tensor) -> Tensor:
        with torch.no_grad():
            return logits(x).cpu().softmax(1)

    for i in range(count):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed + i)
            model = build_model("cnn-small", shape, classes, norm="group")
            fit(model, public, soft_labels, FitRecipe(steps, _BATCH, lr=_LR))
        made.append(model.requires_grad_(False))
    return made
