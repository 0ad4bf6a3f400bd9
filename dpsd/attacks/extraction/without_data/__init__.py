"""Attacks without any data of the problem."""
