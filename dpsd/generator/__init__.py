"""Synthetic images: procedural families, a trainable generator, and mixes of both."""
