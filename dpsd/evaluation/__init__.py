"""How good a student is, measured on private data."""
