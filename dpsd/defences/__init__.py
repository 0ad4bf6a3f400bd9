"""Defences on answers: what changes a served model's probabilities after they are computed.

All are pure functions of (probabilities, images, key, account) and deterministic for each input.
They are post-processing, so that the privacy statement of the served model stays as it is.

Example:
    defences = [parse_defence("noise:size=0.2"), Rounding(digits=2)]
    answers = answered(student.predict(images), images, defences, key=draw_key(), account="alice")
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
