"""Measuring: each module lists the jobs of some tables of docs/results.md."""
