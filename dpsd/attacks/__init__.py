"""Attacks on what was released, and audits of what was promised. All of it is private side."""
