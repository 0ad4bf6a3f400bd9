"""The folder of a run, and what is released of it."""
