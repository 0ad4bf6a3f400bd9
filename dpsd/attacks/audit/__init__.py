"""Audit: epsilon bounded from below by attack."""
