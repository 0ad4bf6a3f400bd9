"""Inversion: images out of a model."""
