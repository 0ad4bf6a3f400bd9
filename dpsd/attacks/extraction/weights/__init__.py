"""Attacks that solve for the parameters."""
