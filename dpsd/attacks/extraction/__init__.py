"""Model extraction: copy a model by asking it, and measure how well that goes.

Every attack gets one metered `Endpoint` and what an attacker may hold. See `endpoint`.
"""
