"""Rendering: each module makes a section of docs/results.md or docs/attacks.md."""
