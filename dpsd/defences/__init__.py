"""Defences on answers: what changes a served model's probabilities after they are computed.

All are pure functions of (probabilities, images, key, account) and deterministic for each input.
They are post-processing, so that the privacy statement of the served model stays as it is.

Example:
    >>> p = torch.tensor([[0.61, 0.28, 0.11]]).double()
    >>> images, key = torch.zeros(1, 1, 8, 8, dtype=torch.uint8), bytes(16)  # draw your own key
    >>> defences = [parse_defence("noise:size=0.2"), Rounding(digits=2)]
    >>> answered(p, images, defences, key, account="alice")
    tensor([[0.5800, 0.2100, 0.2100]], dtype=torch.float64)

The examples of the classes change the same answer.
"""

from dpsd.defences.account_marks import AccountMarks
from dpsd.defences.cosine import Cosine
from dpsd.defences.defence import Defence, answered, in_order
from dpsd.defences.dp_noise import DpNoise
from dpsd.defences.honey import Honey
from dpsd.defences.inconsistency import Inconsistency
from dpsd.defences.noise import Noise
from dpsd.defences.output import Labels, Rounding, TopK
from dpsd.defences.parse import DEFENCES, defence_text, parse_defence

__all__ = [
    "DEFENCES", "AccountMarks", "Cosine", "Defence", "DpNoise", "Honey", "Inconsistency", "Labels",
    "Noise", "Rounding", "TopK", "answered", "defence_text", "in_order", "parse_defence",
]  # fmt: skip
