"""Synthesizers: query images from public knowledge alone, and the bank of answered images."""
