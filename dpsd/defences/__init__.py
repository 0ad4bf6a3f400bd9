"""Defences on answers: what changes a served model's probabilities after they are computed.

All are pure functions of (probabilities, images, key, account) and deterministic for each input.
They are post-processing, so that the privacy statement of the served model stays as it is.
"""

from dpsd.defences.defence import Defence, answered, in_order
from dpsd.defences.output import Labels, Rounding, TopK

__all__ = ["Defence", "Labels", "Rounding", "TopK", "answered", "in_order"]
