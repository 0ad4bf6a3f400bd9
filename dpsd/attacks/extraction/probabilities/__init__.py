"""Attacks that learn from whole answers."""
