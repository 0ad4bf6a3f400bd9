"""Random probabilities that several tests use."""

import torch


def simplex(rows, classes=6, seed=0, spread=2.0):
    """Rows of probabilities, float64 [rows, classes]."""
    rng = torch.Generator().manual_seed(seed)
    return (spread * torch.randn(rows, classes, generator=rng, dtype=torch.float64)).softmax(1)
