"""Attacks that need the named class alone."""
