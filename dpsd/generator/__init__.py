"""Synthetic images: procedural families, crops of photographs, a trainable generator, and mixes."""
