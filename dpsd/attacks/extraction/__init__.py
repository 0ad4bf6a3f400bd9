"""Model extraction: copy a model by asking it, and measure how well that goes.

Every attack gets one metered `Endpoint` and what an attacker may hold. See `endpoint`. The attacks
lie by what they learn from: `probabilities`, `labels`, the model's `weights`, questions made
`without_data`; `adaptive` ones know the defence.
"""

from dpsd.attacks.extraction.endpoint import Endpoint, Service

__all__ = ["Endpoint", "Service"]
