"""Accounts that one hand uses."""
