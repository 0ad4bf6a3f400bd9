"""Private data: reading, numbering, and whose they are."""
