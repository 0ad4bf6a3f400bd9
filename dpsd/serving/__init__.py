"""Serve a released student over HTTP, guarded."""
