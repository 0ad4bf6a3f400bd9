"""Attacks that know the defence, or have several endpoints or another problem's data."""
