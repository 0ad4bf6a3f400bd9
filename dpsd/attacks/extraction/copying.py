"""A thief's copy of a model, for other attacks: does it leak what the model leaks?"""

import torch
from torch import Tensor, nn

from dpsd.attacks.extraction.clone import Holdings
from dpsd.attacks.extraction.endpoint import Ask, Service
from dpsd.attacks.extraction.probabilities.soft import distillation
from dpsd.config import PublicFacts
from dpsd.errors import UserError

LEAST = 10
"""Questions that a copy needs."""


def copied(
    ask: Ask, facts: PublicFacts, pool: Tensor, questions: int, *, model: str, seed: int
) -> nn.Module:
    """A copy by distillation, through a metered endpoint and without defences.

    Args:
        ask: the model's probabilities.
        facts: its shape and classes.
        pool: what the thief asks about, uint8 [N, C, H, W]; asked again where it is too small.
        questions: images asked.
        model: the copy's architecture.
        seed: of order, weights and augmentation.

    Returns:
        Float images [B, C, H, W] from 0 to 1 in, logits out; on the CPU, in evaluation mode.

    Raises:
        UserError: fewer than `LEAST` questions, or no images.
    """
    if questions < LEAST or not len(pool):
        raise UserError(f"clones: {questions} questions; accepted: from {LEAST}, about some images")
    with torch.random.fork_rng(), Service(ask, facts, budget=questions) as endpoint:
        *_, last = distillation(endpoint, Holdings(pool, (questions,), model, seed=seed))
    return last.model
